"""Benchmarks of the gateway beside its peers: `python -m bench`."""
