"""Ten minutes of every trouble at once before the real daemon, on a seed."""
