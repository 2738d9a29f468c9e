"""A Messages request for a node that speaks Messages, passed on."""
