"""A soak test of the real daemon before a simulated fleet; see `bench.soak.__main__`."""
