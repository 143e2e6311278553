"""The `corpus` stage: from raw files to clean documents, rejected documents with their reasons, and counts.

1. Read, clean and filter the files (ingest.py).
2. Make ids unique, find duplicates, hold out documents for validation (frames.py).
3. Write Parquet files (writer.py).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage, code_digest
from neolm.core.config import defaults
from neolm.core.errors import InputError, SettingError
from neolm.core.files import digest_json, expanded, remove, write_text
from neolm.core.manifest import Input, Manifest, RawInput, input_from, read_manifest
from neolm.core.progress import count, say, task
from neolm.core.text_encoding import storable
from neolm.corpus.config import DROPPED, CorpusConfig
from neolm.corpus.documents import CONTAMINATION
from neolm.corpus.evaluation_items import EvaluationIndex, EvaluationSets
from neolm.corpus.filter_config import LEFT_OUT
from neolm.corpus.model_scores import Score, Scorer, score_documents
from neolm.corpus.privacy import KIND_WORDS
from neolm.corpus.reasons import REASONS
from neolm.corpus.sources import Raw, RawText, describe_ignored
from neolm.corpus.steps import steps
from neolm.formats.json_values import json_text

READ_LATER = ("near_duplicates", "validation_fraction")
"""Settings that do not change what is read of the raw files."""
# A single document is to be divided into so many parts, each with a few sentences.
PARTS_TO_HOLD_OUT_FROM = 20
MIN_PART_CHARACTERS = 200


def build_corpus(
    output: Path,
    config: CorpusConfig,
    sets: EvaluationSets | None = None,
    scorers: Mapping[str, Scorer] | None = None,
) -> Manifest:
    """Build `output/corpus` unless it is up to date, and return its manifest.

    `sets` are the evaluation sets of `config.decontamination`, `scorers` the models of `config.scores`.

    Raises:
        SettingError: the raw text is missing or cannot be read, or no document is kept.
    """
    made = read_manifest(output / "corpus")
    if made is not None and DROPPED in made.config:
        raise InputError(
            f"{output / 'corpus'} was written by `neolm corpus drop`; leave it as it is with corpus=null, or choose "
            "another output=DIR"
        )
    raw = RawText(config, output)
    settings, paths, known = config.model_dump(), {"path": "raw"}, defaults(config)
    inputs: dict[str, Input | RawInput] = {"raw": raw}
    files, models = config.files(), dict(scorers or {})
    inputs |= {key: input_from(expanded(path), output) for key, path in files.items()}
    inputs |= {f"scores.{name}": input_from(model.directory, output) for name, model in models.items()}
    paths |= {key: key for key in files}
    for name, place in (sets.files if sets else {}).items():
        inputs[f"evaluation set {name}"] = input_from(place, output)
        if config.decontamination is not None and name in config.decontamination.tasks:
            paths["decontamination.data"] = f"evaluation set {name}"
    stage = Stage("corpus", "corpus", output / "corpus", inputs, settings, paths=paths, defaults=known)

    def make(directory: Path) -> dict[str, Any]:
        steps(config)  # an error of the settings comes before anything is read
        index = EvaluationIndex(config.decontamination, list(sets.items())) if sets and config.decontamination else None
        loaded = {name: scorer.load() for name, scorer in models.items()}  # errors of a model come before, too
        with _scratch(stage) as scratch:
            return _build(scratch, directory, raw.fetched, config, index, loaded)

    return stage.ensure(make, lambda counts: _summary(counts, config))


@contextlib.contextmanager
def _scratch(stage: Stage) -> Iterator[Path]:
    """The directory of what is read of the raw files. It stays if the build ends early, for the next run.

    Another one is begun if inputs, code or settings change, except for settings that are used after the reading.
    """
    settings = {key: value for key, value in stage.config.items() if key not in READ_LATER}
    inputs = {name: value.digest for name, value in stage.recorded_inputs().items()}
    folder = stage.directory.with_name(f".{stage.name}.read")
    scratch = folder / digest_json([settings, inputs, code_digest(stage.room)])[:16]
    for path in folder.glob("*"):
        if path != scratch:
            remove(path)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
    except BaseException:
        for path in (scratch, folder):
            with contextlib.suppress(OSError):
                path.rmdir()  # nothing was read
        raise
    remove(folder)


def _build(
    scratch: Path,
    directory: Path,
    raw: Raw,
    config: CorpusConfig,
    index: EvaluationIndex | None,
    loaded: Mapping[str, tuple[str, Score]],
) -> dict[str, Any]:
    """Write the files of the corpus, with what is read in `scratch` on the way, and return its counts."""
    from neolm.corpus.frames import (
        decide,
        final_rows,
        first_errors,
        open_records,
        read_files,
    )  # Daft takes a while to import
    from neolm.corpus.writer import write_splits

    size, groups = sum(file.size for file in raw.files), Counter[bool]()
    with task("corpus: reading", size / 1e6, "MB") as bar:
        for done, was_there in read_files(raw.files, scratch, config):
            bar.advance(done / 1e6)
            groups[was_there] += 1
    if groups[True]:
        say(f"corpus: {groups[True]:,} of {groups.total():,} groups of files were read by an earlier run")
    score_documents(scratch, config.scores, loaded)
    records = open_records(scratch)
    verdicts = decide(records, config, scratch, index)
    counts = verdicts.counts
    if not counts["kept"]["documents"]:
        problem = nothing_kept(raw, counts["rejected"], errors=first_errors(records))
        remove(scratch)
        raise SettingError("path", f"{raw.location}: {problem}")
    with task("corpus: writing", verdicts.kept_bytes / 1e6, "MB") as bar:
        rows = final_rows(records, verdicts, config, scratch)
        written = write_splits(directory, rows, lambda size: bar.advance(size / 1e6))
    if verdicts.contamination is not None:
        lines = map(json_text, verdicts.contamination.report)
        write_text(directory / CONTAMINATION, "".join(f"{line}\n" for line in lines))
    for split in ("kept", "train", "validation"):
        counts[split] |= written[split]
    if verdicts.mojibake_file is not None:
        counts["mojibake_example"] = storable(raw.files[verdicts.mojibake_file].name)
    return {
        **counts,
        "reasons": {reason: REASONS[reason].words for reason in counts["rejected"]},
        "ignored_files": sum(raw.ignored.values()),
        "ignored_kinds": dict(raw.ignored),
        "links": raw.links.describe(),
        "left_out": LEFT_OUT.get(config.preset or ""),
    }


def nothing_kept(
    raw: Raw,
    rejected: Mapping[str, Mapping[str, int]],
    section: str = "corpus.",
    errors: Mapping[str, str] | None = None,
) -> str:
    """The error message if no document is left: the reasons, and the remedy for the most frequent one.

    `section` precedes the names of settings. `errors` has an error message for some of the reasons.
    """
    if not rejected:
        return "it has no documents; give files with text in them"
    if len(rejected) == 1 and raw.files[0].kind == "text" and "broken_utf8" in rejected:
        example = raw.files[0].name
        return (
            "the text is not UTF-8; convert it, for example from Windows-1252: "
            f"iconv -f WINDOWS-1252 -t UTF-8 '{example}' > converted.txt"
        )
    reason = _by_frequency(rejected)[0]
    remedy = REASONS[reason].remedy.replace("corpus.", section)
    example = f" (for example: {errors[reason]})" if errors and reason in errors else ""
    return f"no document is kept ({describe_rejected(rejected)}); {remedy}{example}"


def describe_rejected(rejected: Mapping[str, Mapping[str, int]]) -> str:
    """`broken_json 9, missing_text 1`, the most frequent reasons first."""
    return ", ".join(f"{reason} {rejected[reason]['documents']:,}" for reason in _by_frequency(rejected))


def _by_frequency(rejected: Mapping[str, Mapping[str, int]]) -> list[str]:
    return sorted(rejected, key=lambda reason: (-rejected[reason]["documents"], reason))


def _summary(counts: Mapping[str, Any], config: CorpusConfig) -> str:
    """What was read, kept, held out and dropped, in one line; and a line each for texts that need attention."""
    read, kept, validation = counts["read"], counts["kept"], counts["validation"]
    line = f"{_documents(kept, read['documents'])} kept, {count(kept['bytes'])} bytes"
    share = f"{validation['bytes'] / kept['bytes']:.1%} of the text"
    if not validation["documents"]:
        why = "there is only one document" if kept["documents"] == 1 else "all documents are near-duplicates"
        line += f"; nothing is held out for validation, because {why}"
    elif counts["held_out"] == "parts":
        line += f"; held out for validation: {validation['parts']:,} parts of the only document, {share}"
    else:
        line += f"; held out for validation: {_documents(validation, kept['documents'])}, {share}"
    if counts["rejected"]:
        line += f"; rejected: {describe_rejected(counts['rejected'])}"
    if near := counts.get("near_duplicates"):
        largest = f", the largest of {near['largest'][0]:,} documents" if near["largest"] else ""
        clusters = "1 cluster" if near["clusters"] == 1 else f"{near['clusters']:,} clusters"
        line += f"; near-duplicates: {near['documents']:,} in {clusters}{largest}"
    if dirty := counts.get("contamination"):
        sets = dirty["evaluations"].values()
        touched, items = (sum(one[key] for one in sets) for key in ("touched", "items"))
        unjudged = sum(sum(one["not_judged"].values()) for one in sets)
        line += f"; contamination: {touched:,} of {items:,} items in {dirty['documents']:,} documents"
        line += f", {unjudged:,} not judged" if unjudged else ""
    if cut := counts.get("repeated_text"):
        documents = "1 document" if cut["documents"] == 1 else f"{cut['documents']:,} documents"
        line += f"; repeated text: {count(cut['bytes'])} bytes are cut out of {documents}"
    if counts["masked"]:
        found = (f"{number:,} {KIND_WORDS[kind][number != 1]}" for kind, number in counts["masked"].items())
        line += f"; masked: {', '.join(found)}"
    if counts["ignored_kinds"]:
        line += f"; {describe_ignored(counts['ignored_kinds'])}"
    if counts.get("without_url"):
        line += f"; {counts['without_url']:,} have no URL, and pass the rules for it"
    line += "".join(f"\ncorpus: {sentence}" for sentence in counts["links"])
    line += f"\ncorpus: preset {config.preset}: {counts['left_out']}" if counts["left_out"] else ""
    if not validation["documents"] and kept["documents"] == 1:
        line += f"\ncorpus: {_how_to_hold_out(kept['bytes'])}"
    if counts["mojibake"] and config.source == "files":
        line += (
            f"\ncorpus: mojibake in {counts['mojibake']:,} of the kept documents, for example "
            f"{counts['mojibake_example']}; check the encoding that they were converted from"
        )
    return line


def _how_to_hold_out(size: int) -> str:
    """What to do about a single document of `size` bytes, of which nothing is held out."""
    if size < PARTS_TO_HOLD_OUT_FROM * MIN_PART_CHARACTERS:
        return f"give more text: a document of {size:,} bytes is too short to hold out some of its parts"
    limit = min(10_000, size // PARTS_TO_HOLD_OUT_FROM)
    return f"set corpus.split_characters={limit} to divide the document and hold out some of its parts"


def _documents(counts: Mapping[str, int], total: int) -> str:
    """`3 of 5 documents`, with the number of parts if any is divided."""
    parts = f" (in {counts['parts']:,} parts)" if counts["parts"] != counts["documents"] else ""
    return f"{counts['documents']:,} of {total:,} documents{parts}"
