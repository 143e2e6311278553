"""Encode text as token ids and decode it: training, loading, and the chat template."""
