"""Engines: the kinds of server that nodes run, each with its abilities and its requests."""
