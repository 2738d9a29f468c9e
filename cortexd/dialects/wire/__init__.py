"""The parts that all dialects share: exchanges, JSON, errors, frames."""
