"""How a simulated node turns a request for a model into an answer."""
