"""Planned restarts of engines: when one is due, when it may begin, and what follows from it."""
