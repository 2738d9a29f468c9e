"""What runs the daemon as a unit, for scenes and tests of restarts: systemd itself, or a double."""
