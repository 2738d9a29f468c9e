"""Engines: the servers that nodes run, each with its abilities and its questions, in one room."""
