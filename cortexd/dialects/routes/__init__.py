"""The client routes: their requests and their answers."""
