"""Lines of clients that change in each request, at the front of the prompt."""
