"""Responses of the gateway's own: conversations, questions by id, and work in the background."""
