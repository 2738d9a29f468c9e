"""Simulated nodes with the Messages API: mistral.rs as it serves it, and a strict server of it."""
