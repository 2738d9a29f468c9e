"""The wire shapes: the only place where a dialect's field names are known."""
