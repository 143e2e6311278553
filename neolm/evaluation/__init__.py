"""Measure models: likelihood of held-out text with confidence intervals, compared with compressors."""
