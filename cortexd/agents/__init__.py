"""The gateway's side of the agents: their links, and what the gateway asks them to do."""
