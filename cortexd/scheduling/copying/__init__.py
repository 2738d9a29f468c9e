"""How many copies of a model are loaded, and on which nodes."""
