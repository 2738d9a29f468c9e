"""What the daemon learns of nodes and models from what they do."""
