"""Loads that no request waits for yet."""
