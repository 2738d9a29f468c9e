"""The daemon beside a node's engine: it reports what it sees, and restarts the engine."""
