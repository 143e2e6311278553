"""Compare the text that NeoLM extracts from web pages with that of trafilatura and resiliparse, used plainly.

    python benchmarks/extraction.py --data article-extraction-benchmark

The folder is a copy of scrapinghub's article-extraction-benchmark: `html/*.html.gz` (or the pages in the folder itself)
and `ground-truth.json`. The score is that of its evaluate.py: runs of four words, counted page by page,
mean precision and mean recall over pages, and their F1. The spread is that of its bootstrap over pages.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machine import revision
from report import command_line, publish, table

BOOTSTRAP_SAMPLES = 1000
_WORD = re.compile(r"\w+")
Count = tuple[float, float, float]


def read_data(folder: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """The pages by name, and the true text of each."""
    truth_file = next(iter(sorted(folder.glob("ground-truth.json*"))), None)
    if truth_file is None:
        raise SystemExit(f"{folder}: there is no ground-truth.json")
    if truth_file.suffix == ".zst":
        import zstandard

        truth = zstandard.ZstdDecompressor().stream_reader(truth_file.read_bytes()).read()
    else:
        truth = truth_file.read_bytes()
    found = sorted([*folder.glob("html/*.html.gz"), *folder.glob("*.html.gz")])
    pages = {path.name.removesuffix(".html.gz"): gzip.decompress(path.read_bytes()) for path in found}
    return pages, {name: page.get("articleBody", "") for name, page in json.loads(truth).items() if name in pages}


def ours(extractor: str) -> Callable[[bytes], str]:
    from neolm.core.chunks import DamageError
    from neolm.formats.pages import extract

    def text(page: bytes) -> str:
        try:
            return str(extract(page, extractor)["text"])
        except DamageError:
            return ""

    return text


def contestants() -> dict[str, Callable[[bytes], str]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    def resiliparse(page: bytes) -> str:
        return str(extract_plain_text(bytes_to_str(page, detect_encoding(page)), main_content=True))

    def plain(**options: bool) -> Callable[[bytes], str]:
        return lambda page: trafilatura.extract(page, include_comments=False, **options) or ""

    return {
        "NeoLM, trafilatura": ours("trafilatura"),
        "trafilatura, favor_precision": plain(favor_precision=True),
        "trafilatura": plain(),
        "NeoLM, resiliparse": ours("resiliparse"),
        "resiliparse, main_content": resiliparse,
    }


def matches(true: str, found: str) -> Count:
    """The shares of common, invented and missing runs of four words among all."""
    runs = []
    for text in (true, found):
        words = _WORD.findall(text)
        runs.append(Counter(tuple(words[n : n + 4]) for n in range(max(1, len(words) - 3)) if words))
    common, invented, missing = (runs[0] & runs[1]).total(), (runs[1] - runs[0]).total(), (runs[0] - runs[1]).total()
    whole = max(1, common + invented + missing)
    return common / whole, invented / whole, missing / whole


def scores(counts: list[Count]) -> dict[str, float]:
    precision = statistics.mean(_share(c, i, i == m == 0) for c, i, m in counts if c + i > 0)
    recall = statistics.mean(_share(c, m, i == m == 0) for c, i, m in counts if c + m > 0)
    return {"f1": 2 * precision * recall / (precision + recall), "precision": precision, "recall": recall}


def _share(common: float, others: float, perfect: bool) -> float:
    return 1.0 if perfect else common / (common + others)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """The scores and the seconds of every contestant; they take turns."""
    pages, truth = read_data(folder)
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, extractor in contestants().items():
            extractor(b"<p>a page that is not counted, because packages are imported for it</p>")
            start = time.perf_counter()
            texts = {page: extractor(data) for page, data in pages.items() if page in truth}
            seconds = time.perf_counter() - start
            results.setdefault(name, {"seconds": []})["seconds"].append(seconds)
            if "scores" not in results[name]:
                counts = [matches(truth[page], text) for page, text in texts.items()]
                results[name] |= {"scores": scores(counts), "spread": bootstrap(counts)}
    size = sum(len(pages[page]) for page in truth)
    return {"contestants": results, "pages": len(truth), "bytes": size}


def bootstrap(counts: list[Count]) -> float:
    """The standard deviation of F1 over samples of pages."""
    chance = random.Random(0)
    samples = [scores(chance.choices(counts, k=len(counts)))["f1"] for _ in range(BOOTSTRAP_SAMPLES)]
    return statistics.stdev(samples)


def section(results: Mapping[str, Any]) -> str:
    rows = []
    for name, found in results["contestants"].items():
        f1, precision, recall = (found["scores"][key] for key in ("f1", "precision", "recall"))
        rate = results["bytes"] / statistics.median(found["seconds"]) / 1e6
        rows.append([name, f"{f1:.4f} ± {found['spread']:.4f}", f"{precision:.3f}", f"{recall:.3f}", f"{rate:.1f}"])
    pages = f"{results['pages']:,} pages of {results['bytes'] / 1e6:.1f} MB. NeoLM at revision {results['revision']}."
    made = f"Made by `{results['command']}`."
    return "\n\n".join([pages, table(["extractor", "F1", "precision", "recall", "MB/s of HTML"], rows), made])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a copy of the benchmark")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times that each extractor runs (3)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    results = {
        "command": command_line("extraction"),
        "revision": revision(),
        **measure(options.data, options.rounds),
    }
    publish("extraction", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
