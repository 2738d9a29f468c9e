"""Simulated nodes with the Messages API: mistral.rs with its own version, and a strict server."""
