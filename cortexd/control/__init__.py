"""The control socket: its commands, the daemon's answers, and the permission to connect."""
