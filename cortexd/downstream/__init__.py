"""The client's side: the HTTP server and the responses that it writes."""
