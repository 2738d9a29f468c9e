"""What agents cost: one beside its engine, and many at the gateway."""
