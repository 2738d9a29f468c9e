"""The engine's process: run by the agent or by a command of its file, ended, watched, and read."""
