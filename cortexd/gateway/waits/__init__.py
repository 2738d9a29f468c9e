"""Waits for replicas, as clients see them: how long they will wait, and what they are told."""
