"""Headers that each dialect has of its own."""
