"""The dialects' wire formats: no other package knows their field names."""
