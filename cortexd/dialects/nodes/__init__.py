"""The nodes' side of the dialects: streams, answers, errors, listings and operations."""
