"""Measure a model on documents, next to compressors; and the `evaluation` stage of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from neolm.core.artifact import Manifest, Stage, input_from
from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError
from neolm.core.files import write_json, write_text
from neolm.core.progress import say, table
from neolm.evaluation.baselines import spread_sample, train_dictionary, xz_size, xz_sizes, zstd_sizes
from neolm.evaluation.bootstrap import Interval, bootstrap_ratio
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.perplexity import DocumentScore, corpus_scores, document_scores, text_bytes, window_and_stride
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

SOURCES_SHOWN = 20  # in the breakdown, the largest first


class TextDocument(Protocol):
    """What is measured; a `source`, where there is one, gives the breakdown."""

    @property
    def id(self) -> str:
        """Its name, unique in the corpus."""
        ...

    @property
    def text(self) -> str:
        """All of it."""
        ...


D = TypeVar("D", bound=TextDocument)
Texts = Callable[[], Iterator[str]]


def evaluate(
    model: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[TextDocument],
    config: EvaluateConfig | None = None,
    training_texts: Texts | None = None,
) -> dict[str, Any]:
    """Loss, perplexities and bits per byte of `documents` with intervals, beside compressors; all of it JSON.

    Args:
        model: A decoder; it computes where it is, in the precision that it has.
        tokenizer: Its tokenizer.
        documents: Held-out text; read once, and only what `config.max_bytes` chooses is kept.
        config: The settings; its device and precision are for those who load the model.
        training_texts: Gives the texts of the training split, for the dictionary; None: no such baseline.

    Returns:
        Each number as `{"value", "low", "high"}`: `loss` (nats a token), `token_perplexity`, `word_perplexity`,
        `bits_per_byte`, `baselines` (name to bits per byte, with what it is and its `difference` from the model),
        `sources`; and `documents`, `bytes`, `tokens`, `words`, `available`, `settings` and `per_document`.

    Raises:
        InputError: no document, no text in them, or a window or stride that does not fit.
    """
    config = config or EvaluateConfig()
    window, stride = window_and_stride(model.config.max_position_embeddings, config.window, config.stride)
    chosen, available = choose_documents(documents, config.max_bytes, config.seed)
    texts, names = [document.text for document in chosen], [document.id for document in chosen]
    scores = document_scores(model, tokenizer, texts, window, stride, config.batch_size, names)
    intervals = corpus_scores(scores, config.bootstrap_samples, config.confidence, config.seed)
    sizes = _compressed_sizes(texts, training_texts, config) if config.baselines else {}
    sources = [str(getattr(document, "source", "")) for document in chosen]
    return {
        **{name: interval.as_json() for name, interval in intervals.items()},
        "baselines": _baselines(scores, sizes, config),
        "sources": _by_source(scores, sources, config),
        "documents": len(scores),
        "bytes": sum(score.bytes for score in scores),
        "tokens": sum(score.tokens for score in scores),
        "words": sum(score.words for score in scores),
        "available": available,
        "settings": {
            **config.model_dump(exclude={"prompts", "sample_tokens", "temperature"}),
            "window": window,
            "stride": stride,
            "device": str(model.device),
            "precision": str(model.dtype).removeprefix("torch."),
        },
        "per_document": _per_document(chosen, sources, scores, sizes),
    }


def choose_documents(documents: Iterable[D], max_bytes: int | None, seed: int = 0) -> tuple[list[D], dict[str, int]]:
    """The documents to measure, in the order of their hash, and the documents and bytes that there were to choose from.

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
        raise InputError("evaluation: there is no document to measure on")
    if not available["bytes"]:
        raise InputError("evaluation: the documents to measure on are all empty")
    return chosen, available


def _size(document: TextDocument) -> int:
    return len(text_bytes(document.text))


def _compressed_sizes(texts: Sequence[str], training_texts: Texts | None, config: EvaluateConfig) -> dict[str, Any]:
    """Compressed bytes of each document by baseline, of all together for `xz_together`, and the dictionary's size."""
    raw = [text_bytes(text) for text in texts]
    sizes: dict[str, Any] = {"xz": xz_sizes(raw), "xz_together": xz_size(b"".join(raw))}
    training = (text_bytes(text) for text in training_texts()) if training_texts else ()
    dictionary = train_dictionary(training, config.dictionary_bytes)
    if dictionary is not None:
        sizes["zstd_dictionary"] = zstd_sizes(raw, dictionary)
        sizes["dictionary_bytes"] = len(dictionary.as_bytes())
    return sizes


def _baselines(scores: Sequence[DocumentScore], sizes: dict[str, Any], config: EvaluateConfig) -> dict[str, Any]:
    """Bits per byte of each compressor, the strongest comparison first, and how far the model is below it."""
    found: dict[str, Any] = {}
    total = sum(score.bytes for score in scores)
    model_bits = np.array([score.negative_log_likelihood for score in scores]) / math.log(2)
    what = {"zstd_dictionary": "zstd -19 with a dictionary from the training text", "xz": "xz -9e, each document alone"}
    for name in (name for name in what if name in sizes):
        bits = 8.0 * np.array(sizes[name])
        found[name] = {
            **_per_byte(bits, scores, config).as_json(),
            "name": what[name],
            "difference": _per_byte(bits - model_bits, scores, config).as_json(),
        }
    if "zstd_dictionary" in found:
        found["zstd_dictionary"]["dictionary_bytes"] = sizes["dictionary_bytes"]
    if "xz_together" in sizes:
        together = Interval(8 * sizes["xz_together"] / total, None, None)
        found["xz_together"] = {**together.as_json(), "name": "xz -9e, all documents at once"}
    return found


def _per_byte(bits: np.ndarray[Any, Any], scores: Sequence[DocumentScore], config: EvaluateConfig) -> Interval:
    sizes = [score.bytes for score in scores]
    return bootstrap_ratio(bits, sizes, config.bootstrap_samples, config.confidence, config.seed)


def _by_source(scores: Sequence[DocumentScore], sources: Sequence[str], config: EvaluateConfig) -> dict[str, Any]:
    """Loss and bits per byte of each source, the largest sources first; empty where there are not several."""
    groups: dict[str, list[DocumentScore]] = {}
    for source, score in zip(sources, scores, strict=True):
        if score.bytes:
            groups.setdefault(source, []).append(score)
    if len(groups) < 2:
        return {}
    largest = sorted(groups.items(), key=lambda item: -sum(score.bytes for score in item[1]))[:SOURCES_SHOWN]
    found = {}
    for source, group in largest:
        intervals = corpus_scores(group, config.bootstrap_samples, config.confidence, config.seed)
        found[source] = {
            "documents": len(group),
            "bytes": sum(score.bytes for score in group),
            **{name: intervals[name].as_json() for name in ("loss", "bits_per_byte")},
        }
    return found


def _per_document(
    documents: Sequence[TextDocument], sources: Sequence[str], scores: Sequence[DocumentScore], sizes: dict[str, Any]
) -> list[dict[str, Any]]:
    """One object a document: what it cost the model, and the compressors."""
    rows = []
    for number, (document, source, score) in enumerate(zip(documents, sources, scores, strict=True)):
        row = {
            "id": document.id,
            "source": source,
            "bytes": score.bytes,
            "words": score.words,
            "tokens": score.tokens,
            "negative_log_likelihood": score.negative_log_likelihood,
        }
        row |= {f"{name}_bytes": sizes[name][number] for name in ("zstd_dictionary", "xz") if name in sizes}
        rows.append(row)
    return rows


def evaluate_stage(output: Path, config: EvaluateConfig, model: Path | None = None) -> Manifest:
    """Build `output/evaluation` from a model (`output/model`) and `output/corpus`, unless it is up to date.

    It holds `scores.json` (what `evaluate` returns), `documents.jsonl` (a line a document) and `samples.json`.

    Raises:
        InputError: nothing to measure on, or settings that do not fit the model or this machine.
        NeoLMError: the corpus or the model is not finished.
    """
    model = model or output / "model"
    inputs = {"model": input_from(model, output), "corpus": input_from(output / "corpus", output)}
    stage = Stage("evaluation", "evaluation", output / "evaluation", inputs, config.model_dump())
    return stage.ensure(lambda directory: _build(directory, output, model, config))


def _build(directory: Path, output: Path, source: Path, config: EvaluateConfig) -> dict[str, Any]:
    """Write the files of the stage; returns its counts."""
    from neolm.corpus.documents import read_documents
    from neolm.evaluation.samples import samples
    from neolm.models.hf import load_model

    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    model = load_model(source, device.value, precision.value, config.quantize)
    tokenizer = load_tokenizer(source)
    result = evaluate(
        model,
        tokenizer,
        read_documents(output / "corpus", "validation"),
        config,
        lambda: (document.text for document in read_documents(output / "corpus", "train")),
    )
    rows = result.pop("per_document")
    result["settings"]["device_reason"], result["settings"]["precision_reason"] = device.reason, precision.reason
    write_json(directory / "scores.json", result)
    write_text(directory / "documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(directory / "samples.json", samples(model, tokenizer, config))
    say(scores_table(result))
    return {name: result[name] for name in ("documents", "bytes", "tokens", "available")}


def scores_table(result: dict[str, Any]) -> str:
    """The model and the compressors in bits per byte, for a terminal."""
    settings = result["settings"]
    rows: list[tuple[Any, ...]] = [("", "bits per byte", f"{settings['confidence']:.0%} interval")]
    rows.append(_row("this model", result["bits_per_byte"]))
    for found in result["baselines"].values():
        size = f" ({found['dictionary_bytes'] / 2**20:.2g} MiB)" if "dictionary_bytes" in found else ""
        rows.append(_row(found["name"] + size, found))
    of = f"{result['documents']} of {result['available']['documents']} documents, {result['bytes'] / 1000:,.0f} kB"
    how = f"window {settings['window']}, stride {settings['stride']}, {settings['precision']}"
    loss, perplexity = result["loss"]["value"], result["token_perplexity"]["value"]
    shown = "beyond a float" if perplexity is None else f"{perplexity:.2f}"
    return f"evaluation: {of}; {how}\n{table(rows)}\nloss {loss:.4f} nats a token, token perplexity {shown}"


def _row(name: str, number: dict[str, Any]) -> tuple[str, str, str]:
    known = number["low"] is not None
    return name, f"{number['value']:.3f}", f"{number['low']:.3f} to {number['high']:.3f}" if known else ""
