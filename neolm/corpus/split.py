"""Train or validation: a hash of the document's id decides, so that a document keeps its side as the corpus grows."""

from __future__ import annotations

import hashlib
import math


def validation_score(document_id: str) -> float:
    """A number in [0, 1), uniform over ids and a function of nothing else: the first 53 bits of BLAKE2b."""
    digest = hashlib.blake2b(document_id.encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def validation_threshold(documents: int, smallest: float, largest: float, fraction: float) -> float:
    """The score below which a document is for validation, given the extreme scores of all `documents`.

    It is `fraction`, unless that would leave one side empty: then the document with the smallest score alone goes
    to validation, or the one with the largest alone to training. A single document is for training.
    """
    if documents < 2:
        return 0.0
    if smallest >= fraction:
        return math.nextafter(smallest, 1.0)
    return min(fraction, largest)
