"""From a model to text: the key-value cache, sampling, decoding in batches, streaming and the chat session."""
