"""Nodes whose machines sleep: their states, and what polls and reports then say."""
