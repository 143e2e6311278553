"""Embeddings of texts: encoders that turn a text into one vector."""
