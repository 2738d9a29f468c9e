"""What agents read again of their conversations before two copies of a model."""
