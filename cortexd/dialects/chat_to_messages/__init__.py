"""Chat clients on nodes that speak Messages: the chat becomes a Messages request."""
