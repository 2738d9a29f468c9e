"""What the fleet has taught us of times: of loads, of leases and of other operations."""
