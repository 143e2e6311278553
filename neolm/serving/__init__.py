"""One model, many who ask: the engine that decodes for all of them together."""
