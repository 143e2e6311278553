"""Fine-tuning: (data, objective) pairs for the training loop, and the baselines that a fine-tuned model must beat."""
