"""The report of a run: one self-contained HTML page, made of nothing but the files in the run's directory."""
