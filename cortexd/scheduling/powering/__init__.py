"""Nodes that sleep: when one may, when one is woken, and what that costs a placement."""
