"""Bodies too large for the reactor: a process of its own translates them, one at a time."""
