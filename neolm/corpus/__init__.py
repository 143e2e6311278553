"""Raw text to clean, deduplicated, documented documents. Later rooms read them through `neolm.corpus.documents`."""
