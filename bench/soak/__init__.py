"""Minutes of a fleet's life before the real daemon; see `bench.soak.__main__`."""
