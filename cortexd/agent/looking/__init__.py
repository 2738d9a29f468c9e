"""What the agent sees of its machine: the engine's processes, its answers, and memory."""
