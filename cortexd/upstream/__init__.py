"""The nodes' side: connections, HTTP clients, polling, loads and unloads."""
