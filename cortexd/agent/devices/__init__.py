"""What the agent sees of the accelerators, through the libraries of their makers."""
