"""Build clean, deduplicated documents from raw text. Other rooms read them with `neolm.corpus.documents`."""
