"""The checks that all scores share: examples exist, each has one value of every kind, and the values make sense."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neolm.core.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def examples(score: str, /, **values: ArrayLike) -> list[NDArray[Any]]:
    """Return the values as arrays with the same number of rows.

    Raises:
        InputError: there are no examples, the arrays differ in length, or a value is missing, NaN or infinite.
    """
    arrays = {name: np.asarray(value) for name, value in values.items()}
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise InputError(f"{score}: each example needs one value of each kind, but there are {lengths}")
    for name, array in arrays.items():
        if len(array) == 0:
            raise InputError(f"{score}: there are no examples")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise InputError(f"{score}: {name} of example {row} (counted from 0) is not a finite number")
        if array.dtype.kind == "O" and any(value is None for value in array.flat):
            raise InputError(f"{score}: {name} is missing for some examples; leave them out and say how many")
    return list(arrays.values())


def booleans(score: str, /, **values: ArrayLike) -> list[Bools]:
    """Return the values as booleans, from booleans or from 0 and 1.

    Raises:
        InputError: as `examples`, or a value is something else, such as the label -1 or "0", which would be taken for
            true.
    """
    arrays = examples(score, **values)
    for name, array in zip(values, arrays, strict=True):
        wrong = ~np.isin(array, (0, 1)) if array.dtype.kind in "biufO" else np.ones(array.shape, bool)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            raise InputError(f"{score}: {name} of example {place[0]} is {array[place].item()!r}; it must be 0 or 1")
    return [array.astype(bool) for array in arrays]


def label_ids(score: str, labels: int, /, **values: ArrayLike) -> list[Ints]:
    """Return the values as label ids from 0 to `labels` - 1.

    Raises:
        InputError: as `examples`, or an id is not a whole number in this range.
    """
    arrays = examples(score, **values)
    for name, array in zip(values, arrays, strict=True):
        if array.dtype.kind not in "iu":
            raise InputError(f"{score}: {name} must be whole numbers, the ids of labels, not {array.dtype}")
        wrong = (array < 0) | (array >= labels)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(f"{score}: {name} of example {row} is {array[row]}, but the ids are 0 to {labels - 1}")
    return [array.astype(np.int64) for array in arrays]
