"""A fleet of nodes that load models, simulated under any policy: `python -m bench.lifecycle`."""
