"""A chat, completion or response for a node that speaks the same dialect."""
