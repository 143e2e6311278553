"""Tables of examples: read from and written to CSV, TSV, JSON Lines, Parquet and plain text; labelled examples."""
