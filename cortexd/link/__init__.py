"""The link between the gateway and the agents: its commands, and who is at its other end."""
