"""The side towards the nodes: connections, HTTP clients, polling, loads and unloads."""
