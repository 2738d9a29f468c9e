"""What outlives the daemon: pins, cordons, footprints and the journal, in SQLite."""
