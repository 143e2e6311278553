"""Run by benchmarks/corpus.py in datatrove's environment: filters and MinHash over a folder of JSON lines.

    python contestant_datatrove.py TEXTS WORK

Its filters in FineWeb's order, without URLs and languages (whose model is downloaded), then its stages of MinHash with
14 buckets of 8. Each stage is one task in this process. Prints the seconds, and the documents kept.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path


def run(texts: Path, work: Path) -> dict[str, float]:
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    signatures, buckets, removed, filtered, output = (
        str(work / name) for name in ("signatures", "buckets", "removed", "filtered", "output")
    )
    filters = [
        JsonlReader(str(texts)),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
        JsonlWriter(filtered),
    ]
    stages = [
        filters,
        [JsonlReader(filtered), MinhashDedupSignature(signatures, config=config)],
        [MinhashDedupBuckets(signatures, buckets, config=config)],
        [MinhashDedupCluster(buckets, removed, config=config)],
        [JsonlReader(filtered), MinhashDedupFilter(removed), JsonlWriter(output)],
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    for steps in stages:
        ranks = config.num_buckets if isinstance(steps[0], MinhashDedupBuckets) else 1
        for rank in range(ranks):
            data = None
            for step in steps:
                data = step(data, rank=rank, world_size=ranks)
            for _ in data or ():
                pass
    measured = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    kept = sum(len(gzip.decompress(path.read_bytes()).splitlines()) for path in Path(output).glob("*.gz"))
    return {**measured, "found": kept}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]))))
