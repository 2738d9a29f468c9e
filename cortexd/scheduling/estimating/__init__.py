"""When a request is expected to get its replica: the estimates that clients are told."""
