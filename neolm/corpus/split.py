"""Divide documents into training and validation by a hash of their ids, which stays the same as a corpus grows."""

from __future__ import annotations

import hashlib
import math


def validation_score(name: str) -> float:
    """A number in [0, 1), uniform over ids and a function of the id alone: the first 53 bits of BLAKE2b."""
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def validation_threshold(units: int, smallest: float | None, largest: float | None, fraction: float) -> float:
    """The score below which a unit (a document or a part) is for validation.

    It is `fraction`, the share of units to hold out, unless one split would be empty. Then the unit with the smallest
    score is the only one for validation, or the unit with the largest the only one for training. A single unit is for
    training.
    """
    if units < 2 or smallest is None or largest is None:
        return 0.0
    if smallest >= fraction:
        return math.nextafter(smallest, 1.0)
    return min(fraction, largest)
