"""The daemon as a service: stages that start and stop in order, signals, systemd."""
