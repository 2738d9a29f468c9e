"""The state of all nodes and models, and how it changes: pure."""
