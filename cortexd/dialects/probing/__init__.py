"""Finds out what the chat template of a model can do, by questions of one token."""
