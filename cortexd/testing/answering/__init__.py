"""The simulated node's way from a request for a model to an answer."""
