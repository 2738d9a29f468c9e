"""A chat request for a node that speaks Messages, and its answer as a chat."""
