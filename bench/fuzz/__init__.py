"""Bodies that clients should and should not send, and what must come back for each of them."""
