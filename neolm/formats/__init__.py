"""File formats of raw text: each module turns the bytes of a file into items, and names what is damaged."""
