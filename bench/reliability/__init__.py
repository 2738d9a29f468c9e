"""Scenes that try to stop the daemon, each against the real daemon in a process of its own."""
