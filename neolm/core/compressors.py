"""Compressors that a model's bits per byte are compared with, by their key in scores.json."""

from __future__ import annotations

COMPRESSORS = {
    "zstd_dictionary": ("zstd with a dictionary", "zstd -19, with a dictionary made from the training text"),
    "xz": ("xz, each document alone", "xz -9e, without any prior text"),
    "xz_together": ("xz, all documents at once", "xz -9e on one archive of all documents; not comparable"),
}
"""Name and explanation, the fairest comparison first."""
