"""Responses clients on nodes that speak chat: the request becomes a chat, its answer a response."""
