"""Chat templates, rendered as a mistral.rs node renders them."""
