"""The control socket: its commands, the daemon's answers, who may connect."""
