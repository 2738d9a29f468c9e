"""What the agents of a large fleet cost the gateway."""
