"""The Responses of a mistral.rs node, which the simulated node of the demo lacks."""
