"""A Messages request for a node that speaks chat, and its answer as Messages."""
