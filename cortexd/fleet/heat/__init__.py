"""What the loss of a model would cost, by how it has been requested over minutes and days."""
