"""Text to token ids and back: training, loading, and the one place where a conversation becomes text."""
