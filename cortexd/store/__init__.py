"""State that survives restarts: pins, cordons, footprints and the journal, in SQLite."""
