"""What a request pays for its key."""
