"""The stage `corpus`: raw files -> clean documents, rejected documents with their reasons, and the funnel of counts.

files -> read, clean, filter (ingest.py) -> unique ids, duplicates, split (frames.py) -> Parquet (funnel.py)
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Manifest, Stage
from neolm.core.errors import InputError
from neolm.core.progress import count, task
from neolm.corpus.config import CorpusConfig
from neolm.corpus.sources import Raw, RawText


def build_corpus(output: Path, config: CorpusConfig) -> Manifest:
    """Build `output/corpus`, unless it is there and up to date, and return its manifest.

    Raises:
        InputError: the raw text is missing, cannot be read, or nothing of it is kept.
    """
    raw = RawText(config, output)
    stage = Stage("corpus", "corpus", output / "corpus", {"raw": raw}, config.model_dump())
    return stage.ensure(lambda directory: _build(directory, raw.found, config), _summary)


def _build(directory: Path, raw: Raw, config: CorpusConfig) -> dict[str, Any]:
    """Write the files of the corpus and return its counts."""
    from neolm.corpus.frames import decide, final_rows, open_records, read_files  # Daft takes a while to import
    from neolm.corpus.funnel import Funnel

    scratch = directory / ".scratch"
    scratch.mkdir()
    size = sum(file.size for file in raw.files)
    with task("corpus: reading", size / 1e6, "MB") as bar:
        for done in read_files(raw.files, scratch, config):
            bar.advance(done / 1e6)
    records = open_records(scratch)
    verdicts = decide(records, config)
    if not verdicts.kept:
        raise InputError(_nothing_kept(raw, verdicts.reasons))
    funnel = Funnel(directory)
    with task("corpus: writing", verdicts.kept_bytes / 1e6, "MB") as bar:
        for batch in final_rows(records, verdicts, config):
            bar.advance(funnel.add(batch) / 1e6)
    funnel.close()
    shutil.rmtree(scratch)
    return {
        "read": {"documents": verdicts.read, "bytes": verdicts.read_bytes},
        **funnel.counts(verdicts.kept),
        "ignored_files": raw.ignored,
    }


def _nothing_kept(raw: Raw, reasons: Mapping[str, int]) -> str:
    """What to say when no document is left: the reasons, and the mending of the commonest."""
    where = f"corpus.path: {raw.location}"
    if not reasons:
        return f"{where}: holds no documents; give files with text in them"
    if len(reasons) == 1 and raw.files[0].kind == "text" and "broken_utf8" in reasons:
        example = raw.files[0].name
        return (
            f"{where}: none of it is UTF-8 text; convert it, for example from Windows-1252: "
            f"iconv -f WINDOWS-1252 -t UTF-8 '{example}' > converted.txt"
        )
    listed = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items(), key=lambda x: (-x[1], x[0])))
    commonest = max(sorted(reasons), key=lambda reason: reasons[reason])
    mend = _MENDING.get(commonest, "give other files")
    return f"{where}: no document is kept ({listed}); {mend}"


_MENDING = {
    "empty": "give files with text in them",
    "too_short": "corpus.min_characters lowers the limit",
    "too_long_lines": "corpus.max_line_characters raises the limit",
    "mostly_non_text": "corpus.min_text_fraction lowers the limit",
    "missing_text": "corpus.text_key=KEY names where the text is",
    "broken_utf8": "convert the files to UTF-8",
    "broken_json": "each line of a .jsonl file must be one JSON object",
    "binary": "this is no text; give text files",
    "truncated": "the compressed file ends early; fetch it again",
    "unreadable": "check the files and the permission to read them",
}


def _summary(counts: Mapping[str, Any]) -> str:
    """One line: what was read, kept and dropped."""
    read, kept = counts["read"], counts["kept"]
    line = (
        f"{kept['documents']:,} of {read['documents']:,} documents kept, {count(kept['bytes'])} bytes "
        f"({counts['train']['documents']:,} train, {counts['validation']['documents']:,} validation)"
    )
    rejected = {reason: value["documents"] for reason, value in counts["rejected"].items()}
    if rejected:
        line += "; rejected: " + ", ".join(f"{reason} {number:,}" for reason, number in rejected.items())
    if counts["ignored_files"]:
        line += f"; {counts['ignored_files']:,} files of other kinds ignored"
    if counts["validation"]["documents"] == 0:
        line += (
            "\ncorpus: this is one document, so there is none to validate on; "
            "corpus.split_characters=10000 cuts it into parts"
        )
    return line
