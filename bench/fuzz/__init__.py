"""A fuzz test: valid and invalid request bodies, and checks of the answer to each."""
