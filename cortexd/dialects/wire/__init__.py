"""The shapes that all dialects share: requests, JSON, errors, frames."""
