"""Measure a model on documents and compare it with compressors, for `neolm evaluate` and for the stage of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from neolm.core.artifact import Stage
from neolm.core.config import defaults, load_config
from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError, SettingError
from neolm.core.files import write_json, write_text
from neolm.core.manifest import Manifest, chain, input_from
from neolm.core.progress import say, table
from neolm.corpus.build import describe_rejected, nothing_kept
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import read_documents
from neolm.corpus.records import Record, read_records
from neolm.corpus.sources import describe_ignored, find_files
from neolm.evaluation.baselines import spread_sample, train_dictionary, xz_size, xz_sizes, zstd_sizes
from neolm.evaluation.bootstrap import Interval
from neolm.evaluation.config import EvaluateConfig, TextEvaluateConfig
from neolm.evaluation.language_model import DecoderLanguageModel
from neolm.evaluation.measurement import Measurement, TextDocument, TextLikelihood, Values, protocol_id
from neolm.evaluation.perplexity import text_bytes, window_and_stride
from neolm.evaluation.samples import samples
from neolm.models.decoder import Decoder
from neolm.models.hf import load_decoder, model_directory
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

MAX_SOURCES = 20  # in the scores by source, the largest first
COMPRESSORS = {
    "zstd_dictionary": "zstd -19 with a dictionary from the training text",
    "xz": "xz -9e, each document alone",
}

D = TypeVar("D", bound=TextDocument)
Texts = Callable[[], Iterator[str]]


def evaluate_model(
    model: str | Path, text: str | Path | None = None, overrides: Sequence[str] = (), **settings: Any
) -> dict[str, Any]:
    """Measure a model and return its scores.

    Args:
        model: A model directory, a run, or a hub id.
        text: A file or folder to measure on; None: the held-out documents of the model's run.
        overrides: Settings as texts such as `max_bytes=100000`.
        settings: Settings by name, as `neolm config evaluate` lists them: `quantize="int8", max_bytes=None`.

    Raises:
        InputError: there is no such model or text, nothing was held out, or the settings do not fit.
    """
    config = load_config(TextEvaluateConfig, settings, [text.removeprefix("evaluate.") for text in overrides])
    directory = model_directory(model)
    corpus = next((place for place, manifest in chain(directory) if manifest.stage == "corpus"), None)
    documents: Iterable[TextDocument]
    if text is not None:
        documents = RawDocuments(text, config, directory)
    elif corpus is not None:
        documents = read_documents(corpus, "validation")
        for name in ("text_key", "max_document_bytes"):
            if name in config.model_fields_set:
                say(f"{name} has no effect here, because the text is that of the model's run; --text names another")
    else:
        raise InputError(f"{model}: there is no held-out text of this model. Give a file or folder as text (--text)")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    decoder = load_decoder(directory, device.value, precision.value, config.quantize)
    tokenizer = load_tokenizer(directory, lossless=True)
    scores = evaluate(decoder, tokenizer, documents, config, training_texts(corpus) if corpus else None)
    if isinstance(documents, RawDocuments):
        scores["protocols"] = {name: value | documents.left_out() for name, value in scores["protocols"].items()}
    return scores


class RawDocuments:
    """The documents of a file or folder without normalisation or filters; unreadable ones are counted by reason."""

    def __init__(self, path: str | Path, config: TextEvaluateConfig, model: Path) -> None:
        """List the files. Those of the directory `model` are not text to measure on.

        Raises:
            InputError: the path does not exist or has no file that can be read.
        """
        self._config = CorpusConfig(
            source="files", path=str(path), text_key=config.text_key, max_document_bytes=config.max_document_bytes
        )
        self._rejected: dict[str, dict[str, int]] = {}
        try:
            self._raw = find_files(self._config, model)
        except SettingError as error:
            raise InputError(f"text: {error.problem}") from None

    def __iter__(self) -> Iterator[Record]:
        """Read the files. Raises InputError with the reasons if no document is readable."""
        self._rejected.clear()
        readable = 0
        for record in (record for file in self._raw.files for record in read_records(file, self._config)):
            if record.reason is None:
                readable += 1
                yield record
            else:
                rejected = self._rejected.setdefault(record.reason, {"documents": 0, "bytes": 0})
                rejected["documents"] += 1
                rejected["bytes"] += record.size
        if not readable:
            raise InputError(f"text: {self._raw.location}: {nothing_kept(self._raw, self._rejected, section='--set ')}")

    def left_out(self) -> dict[str, Any]:
        """What is not measured, as the manifest of a corpus has it: `rejected` by reason, `ignored_kinds`, `links`."""
        return {
            "rejected": {reason: self._rejected[reason] for reason in sorted(self._rejected)},
            "ignored_kinds": dict(self._raw.ignored),
            "links": self._raw.links.describe(),
        }


def evaluate(
    model: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[TextDocument],
    config: EvaluateConfig | None = None,
    training_texts: Texts | None = None,
) -> dict[str, Any]:
    """Return loss, perplexities and bits per byte of `documents` with intervals, as JSON; compressors for comparison.

    Args:
        model: A decoder; it computes on its device and in its precision.
        tokenizer: The tokenizer of the model.
        documents: Held-out text. It is read once, and only the documents within `config.max_bytes` are kept.
        config: The settings. `device`, `precision` and `quantize` are applied by the caller, which loads the model.
        training_texts: Returns the texts of the training split, for the zstd dictionary; None: no such comparison.

    Returns:
        Scores by measurement: `bits_per_byte`, `loss` (nats per token), `token_perplexity` and `word_perplexity`, each
        with `value`, `low`, `high`, `unit` and the id of its `protocol`. `protocols` has the data and the settings by
        id. `bits_per_byte` also has `baselines` (by compressor, each with its `difference` from the model);
        `bits_per_byte` and `loss` have `sources` if there are several: the largest, and `other_sources`, the number of
        the others. `per_document` has the values of each document.

    Raises:
        InputError: no document, no text in them, or a window or stride that does not fit.
    """
    config = config or EvaluateConfig()
    window, stride = window_and_stride(model.config.max_position_embeddings, config.window, config.stride)
    chosen, available = choose_documents(documents, config.max_bytes, config.seed)
    measurement: Measurement[DecoderLanguageModel] = TextLikelihood(chosen, window, stride, config.batch_size)
    values = measurement.measure(DecoderLanguageModel(model, tokenizer))
    protocol = {
        **measurement.protocol(),
        "precision": str(model.dtype).removeprefix("torch."),
        "quantize": f"int{model.quantized}" if model.quantized else None,
        **config.model_dump(include={"bootstrap_samples", "confidence", "seed"}),
    }
    identifier = protocol_id(protocol)
    sizes = _compressed_sizes(chosen, training_texts, config) if config.baselines else {}
    sources = [str(getattr(document, "source", "")) for document in chosen]
    scores: dict[str, Any] = {
        name: {**_score(value, config), "unit": value.unit, "protocol": identifier} for name, value in values.items()
    }
    scores["bits_per_byte"]["baselines"] = _baselines(values["bits_per_byte"], sizes, config)
    for name in ("bits_per_byte", "loss"):
        scores[name] |= _by_source(values[name], sources, config)
    return {
        **scores,
        "protocols": {identifier: protocol | {"available": available}},
        "per_document": _per_document(chosen, sources, values, sizes),
    }


def choose_documents(documents: Iterable[D], max_bytes: int | None, seed: int = 0) -> tuple[list[D], dict[str, int]]:
    """Return the documents to measure on, in the order of their hash, and the numbers of documents and bytes available.

    Raises:
        InputError: there is no document, or none with text.
    """
    available = {"documents": 0, "bytes": 0}

    def counted() -> Iterator[D]:
        for document in documents:
            available["documents"] += 1
            available["bytes"] += _size(document)
            yield document

    chosen = spread_sample(counted(), _size, max_bytes, lambda document: text_bytes(document.id), seed)
    if not available["documents"]:
        raise InputError("evaluation: there is no document to measure on: none was held out, or none is text")
    if not available["bytes"]:
        raise InputError("evaluation: the documents to measure on are all empty")
    return chosen, available


def _size(document: TextDocument) -> int:
    return len(text_bytes(document.text))


def _score(values: Values, config: EvaluateConfig) -> dict[str, float | None]:
    return values.interval(config.bootstrap_samples, config.confidence, config.seed).as_json()


def _compressed_sizes(
    documents: Sequence[TextDocument], training_texts: Texts | None, config: EvaluateConfig
) -> dict[str, Any]:
    """Compressed bytes of each document by compressor, of all together for `xz_together`, and the dictionary's size."""
    raw = [text_bytes(document.text) for document in documents]
    sizes: dict[str, Any] = {"xz": xz_sizes(raw), "xz_together": xz_size(b"".join(raw))}
    training = (text_bytes(text) for text in training_texts()) if training_texts else ()
    dictionary = train_dictionary(training, config.dictionary_bytes)
    if dictionary is not None:
        sizes["zstd_dictionary"] = zstd_sizes(raw, dictionary)
        sizes["dictionary_bytes"] = len(dictionary.as_bytes())
    return sizes


def _baselines(model: Values, sizes: Mapping[str, Any], config: EvaluateConfig) -> dict[str, Any]:
    """Bits per byte of each compressor, the strongest first, and the difference between it and the model."""
    found: dict[str, Any] = {}
    model_bits = model.amounts / np.log(2)
    for name in (name for name in COMPRESSORS if name in sizes):
        bits = 8.0 * np.array(sizes[name])
        found[name] = {
            **_score(replace(model, amounts=bits, transform=float), config),
            "name": COMPRESSORS[name],
            "difference": _score(replace(model, amounts=bits - model_bits, transform=float), config),
        }
    if "zstd_dictionary" in found:
        found["zstd_dictionary"]["dictionary_bytes"] = sizes["dictionary_bytes"]
    if "xz_together" in sizes:
        together = Interval(8 * sizes["xz_together"] / float(model.weights.sum()), None, None)
        found["xz_together"] = {**together.as_json(), "name": "xz -9e, all documents at once"}
    return found


def _by_source(values: Values, sources: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """`sources`: the score of each source, the largest first, if there are several; `other_sources`: how many more."""
    sizes: dict[str, float] = {}
    for source, weight in zip(sources, values.weights, strict=True):
        if weight:
            sizes[source] = sizes.get(source, 0) + weight
    if len(sizes) < 2:
        return {"sources": {}, "other_sources": 0}
    largest = sorted(sizes, key=lambda source: -sizes[source])[:MAX_SOURCES]
    scores = {
        source: {
            **_score(values.select([other == source for other in sources]), config),
            "documents": sources.count(source),
        }
        for source in largest
    }
    return {"sources": scores, "other_sources": len(sizes) - len(scores)}


def _per_document(
    documents: Sequence[TextDocument], sources: Sequence[str], values: Mapping[str, Values], sizes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One object per document: its size and what it costs the model and the compressors."""
    rows = []
    for number, (document, source) in enumerate(zip(documents, sources, strict=True)):
        row = {
            "id": document.id,
            "parent": values["loss"].groups[number],
            "source": source,
            "bytes": int(values["bits_per_byte"].weights[number]),
            "words": int(values["word_perplexity"].weights[number]),
            "tokens": int(values["loss"].weights[number]),
            "negative_log_likelihood": float(values["loss"].amounts[number]),
        }
        row |= {f"{name}_bytes": sizes[name][number] for name in COMPRESSORS if name in sizes}
        rows.append(row)
    return rows


def evaluate_stage(output: Path, config: EvaluateConfig, model: Path | None = None) -> Manifest:
    """Build `output/evaluation` from a model (`output/model`) and `output/corpus`, unless it is up to date.

    It has `scores.json` (what `evaluate` returns), `documents.jsonl` (one line per document) and `samples.json`.

    Raises:
        InputError: nothing to measure on, or settings that do not fit the model or this machine.
        NeoLMError: the corpus or the model is not finished.
    """
    model = model or output / "model"
    inputs = {"model": input_from(model, output), "corpus": input_from(output / "corpus", output)}
    settings = config.model_dump()
    stage = Stage("evaluation", "evaluation", output / "evaluation", inputs, settings, defaults=defaults(config))
    return stage.ensure(lambda directory: _build(directory, output, model, config))


def _build(directory: Path, output: Path, source: Path, config: EvaluateConfig) -> dict[str, Any]:
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    model = load_decoder(source, device.value, precision.value, config.quantize)
    tokenizer, corpus = load_tokenizer(source, lossless=True), output / "corpus"
    result = evaluate(model, tokenizer, read_documents(corpus, "validation"), config, training_texts(corpus))
    rows = result.pop("per_document")
    write_json(directory / "scores.json", result)
    write_text(directory / "documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(directory / "samples.json", samples(model, tokenizer, config, read_documents(corpus, "validation")))
    say(scores_table(result))
    protocol = result["protocols"][result["bits_per_byte"]["protocol"]]
    ends = ("value", "low", "high")
    return {
        **{name: protocol["data"][name] for name in ("documents", "bytes")},
        "tokens": sum(row["tokens"] for row in rows),
        "available": protocol["available"],
        **{name: {end: score[end] for end in ends} for name, score in result.items() if "value" in score},
        "device": asdict(device),
        "precision": asdict(precision),
    }


def training_texts(corpus: Path) -> Texts:
    """A function that returns the texts of the training split of a corpus."""
    return lambda: (document.text for document in read_documents(corpus, "train"))


def scores_table(result: Mapping[str, Any]) -> str:
    """The model and the compressors in bits per byte, for a terminal."""
    own = result["bits_per_byte"]
    protocol = result["protocols"][own["protocol"]]
    rows: list[tuple[Any, ...]] = [("", "bits per byte", f"{protocol['confidence']:.0%} interval")]
    for found in ({**own, "name": "this model"}, *own["baselines"].values()):
        size = f" ({found['dictionary_bytes'] / 2**20:.2g} MiB)" if "dictionary_bytes" in found else ""
        interval = f"{found['low']:.3f} to {found['high']:.3f}" if found["low"] is not None else ""
        rows.append((found["name"] + size, f"{found['value']:.3f}", interval))
    data, available = protocol["data"], protocol["available"]
    of = f"{data['documents']} of {available['documents']} documents, {data['bytes'] / 1000:,.0f} kB"
    quantized = f", {protocol['quantize']}" if protocol["quantize"] else ""
    how = f"window {protocol['window']}, stride {protocol['stride']}, {protocol['precision']}{quantized}"
    loss, perplexity = result["loss"]["value"], result["token_perplexity"]["value"]
    shown = "beyond a float" if perplexity is None else f"{perplexity:.2f}"
    left_out = _left_out(protocol)
    return f"evaluation: {of}; {how}{left_out}\n{table(rows)}\nloss {loss:.4f} nats per token, token perplexity {shown}"


def _left_out(protocol: Mapping[str, Any]) -> str:
    """The records and files that were not measured, for the end of a line, and a line each for links."""
    found = ""
    if protocol.get("rejected"):
        found += f"; rejected: {describe_rejected(protocol['rejected'])}"
    if protocol.get("ignored_kinds"):
        found += f"; {describe_ignored(protocol['ignored_kinds'])}"
    return found + "".join(f"\nevaluation: {sentence}" for sentence in protocol.get("links", ()))
