"""Who may do what: keys, scopes, limits, and for whom a request is sent; pure."""
