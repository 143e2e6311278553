"""Training on many devices: the ranks that torchrun starts, and the plans by which they share a model."""
