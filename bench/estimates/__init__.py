"""How near told waits come to real ones."""
