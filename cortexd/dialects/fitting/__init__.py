"""A conversation, fitted to the chat template of the model that gets it."""
