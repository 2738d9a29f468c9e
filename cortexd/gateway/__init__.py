"""The routes that clients call, and the way of each request to a node and back."""
