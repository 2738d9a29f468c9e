"""Which replica has read the beginning of a prompt before, and which engines read for nobody."""
