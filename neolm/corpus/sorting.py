"""Sort documents by id with bounded memory: Daft sorts in memory, so ranges of ids are sorted one after the other."""

from __future__ import annotations

import bisect
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neolm.corpus.engine import daft

RANGE_BYTES = 2**26  # raw text that is sorted at a time
SAMPLED = 20_000  # ids that show where ranges end

col: Any = daft.col


def sorted_by_id(frame: Any, narrow: Any, folder: Path) -> Iterator[Any]:
    """Frames of the rows of `frame`, each sorted by id, and one after the other.

    `narrow` has the `id` and the `size` of each row. Temporary files are in `folder`.
    """
    cuts = _cuts(narrow)
    if not cuts:
        yield frame.sort("id")
        return
    with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.ExitStack() as stack:
        paths = [Path(place) / str(number) for number in range(len(cuts) + 1)]
        writers: list[Any] = []
        for batch in frame.with_column("range", _range(col("id"), cuts)).to_arrow_iter():
            if not writers:
                packed = pa.ipc.IpcWriteOptions(compression="zstd")
                opened = (pa.ipc.new_stream(path, batch.schema, options=packed) for path in paths)
                writers += [stack.enter_context(one) for one in opened]
            for number in pc.unique(batch.column("range")).to_pylist():
                writers[number].write_batch(batch.filter(pc.equal(batch.column("range"), number)))
        stack.close()
        for path in paths:
            with pa.ipc.open_stream(path) as rows:
                table = rows.read_all()
            path.unlink()
            yield daft.from_arrow(table).sort("id")


def _cuts(narrow: Any) -> list[str]:
    """Ids that divide the rows into ranges of about RANGE_BYTES, by a sample. The sorted rows do not depend on it."""
    total, rows = narrow.agg(col("size").sum(), col("id").count()).to_arrow().to_pylist()[0].values()
    if total <= RANGE_BYTES:
        return []
    sample = narrow.select("id", "size").sample(fraction=min(1.0, SAMPLED / rows), seed=0).sort("id").to_arrow()
    ends = np.cumsum(sample.column("size").to_numpy())
    if not len(ends):
        return []
    places = np.searchsorted(ends, ends[-1] * np.arange(RANGE_BYTES, total, RANGE_BYTES) / total)
    return sorted(set(sample.column("id").take(places).to_pylist()))


@daft.func(return_dtype=daft.DataType.int64())
def _range(document_id: str, cuts: Sequence[str]) -> int:
    return bisect.bisect_right(cuts, document_id)
