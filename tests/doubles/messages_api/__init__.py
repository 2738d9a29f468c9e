"""The Messages API: of a mistral.rs node, with its omissions, and of a strict server."""
