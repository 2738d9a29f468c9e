"""Messages clients on nodes that speak Messages: request and answer are passed on."""
