"""The command line client, ``cortexctl``."""
