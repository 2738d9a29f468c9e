"""The Messages API as simulated nodes serve it."""
