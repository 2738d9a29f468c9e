"""What each client route reads and returns."""
