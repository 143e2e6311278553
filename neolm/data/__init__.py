"""Documents to token shards to batches whose order is a pure function of the seed and the position."""
