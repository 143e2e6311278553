"""Measure a model on documents, for `neolm evaluate` and for the stage of a run.

A decoder is compared with compressors; `evaluate_encoder` measures encoders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from neolm.core.artifact import Stage
from neolm.core.compressors import COMPRESSORS
from neolm.core.config import defaults, load_config
from neolm.core.device import Choice, choose_device, choose_precision
from neolm.core.errors import InputError
from neolm.core.files import write_json, write_text
from neolm.core.manifest import Manifest, chain, input_from
from neolm.core.progress import say
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.corpus.documents import Document, read_documents
from neolm.evaluation.baselines import train_dictionary, xz_size, xz_sizes, zstd_sizes
from neolm.evaluation.config import EvaluateConfig, TextEvaluateConfig
from neolm.evaluation.documents import RawDocuments, choose_documents
from neolm.evaluation.evaluate_encoder import MASKED, evaluate_encoder
from neolm.evaluation.language_model import DecoderLanguageModel
from neolm.evaluation.masked_examples import masked_examples
from neolm.evaluation.measurement import Measurement, TextDocument, TextLikelihood, Values, protocol_id
from neolm.evaluation.perplexity import text_bytes, window_and_stride
from neolm.evaluation.samples import samples
from neolm.evaluation.scores_table import scores_table
from neolm.metrics.intervals import Interval
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.hf import model_directory, open_model
from neolm.models.hf_config import require_language_model
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

MAX_SOURCES = 20  # in the scores by source, the largest first

FOR_DECODERS = ("stride", "baselines", "dictionary_bytes", "prompts", "sample_tokens", "temperature")
FOR_ENCODERS = ("pseudo_perplexity_documents",)

Texts = Callable[[], Iterator[str]]
Loaded = tuple[Decoder | Encoder, Tokenizer, Choice, Choice]


def evaluate_model(
    model: str | Path,
    text: str | Path | None = None,
    overrides: Sequence[str] = (),
    ranks: RunRanks = ONE_RANK,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a model and return its scores.

    Args:
        model: A model directory, a run, or a hub id.
        text: A file or folder to measure on; None: the held-out documents of the model's run.
        overrides: Settings as texts such as `max_bytes=100000`.
        ranks: The processes that share the measuring; all of them call this.
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
    scores, _ = _measure(directory, documents, config, corpus, ranks)
    if isinstance(documents, RawDocuments):
        scores["protocols"] = {name: value | documents.left_out() for name, value in scores["protocols"].items()}
    return scores


def evaluate(
    model: Decoder,
    tokenizer: Tokenizer,
    documents: Iterable[TextDocument],
    config: EvaluateConfig | None = None,
    training_texts: Texts | None = None,
    ranks: RunRanks = ONE_RANK,
) -> dict[str, Any]:
    """Return loss, perplexities and bits per byte of `documents` with intervals, as JSON; compressors for comparison.

    Args:
        model: A decoder; it computes on its device and in its precision.
        tokenizer: The tokenizer of the model.
        documents: Held-out text. It is read once, and only the documents within `config.max_bytes` are kept.
        config: The settings. `device`, `precision` and `quantize` are applied by the caller, which loads the model.
        training_texts: Returns the texts of the training split, for the zstd dictionary; None: no such comparison.
        ranks: The connected processes that share the windows; all of them call this, and rank 0 compresses.

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
    measurement: Measurement[DecoderLanguageModel] = TextLikelihood(chosen, window, stride, config.batch_size, ranks)
    values = measurement.measure(DecoderLanguageModel(model, tokenizer))
    protocol = {
        **measurement.protocol(),
        "precision": str(model.dtype).removeprefix("torch."),
        "quantize": f"int{model.quantized}" if model.quantized else None,
        **config.model_dump(include={"bootstrap_samples", "confidence", "seed"}),
    }
    identifier = protocol_id(protocol)
    sizes = _compressed_sizes(chosen, training_texts, config) if config.baselines and ranks.first else {}
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
    for name in (name for name in ("zstd_dictionary", "xz") if name in sizes):
        bits = 8.0 * np.array(sizes[name])
        found[name] = {
            **_score(replace(model, amounts=bits, transform=float), config),
            "name": COMPRESSORS[name][0],
            "difference": _score(replace(model, amounts=bits - model_bits, transform=float), config),
        }
    if "zstd_dictionary" in found:
        found["zstd_dictionary"]["dictionary_bytes"] = sizes["dictionary_bytes"]
    if "xz_together" in sizes:
        together = Interval(8 * sizes["xz_together"] / float(model.weights.sum()), None, None)
        found["xz_together"] = {**together.as_json(), "name": COMPRESSORS["xz_together"][0]}
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
        row |= {f"{name}_bytes": sizes[name][number] for name in ("zstd_dictionary", "xz") if name in sizes}
        rows.append(row)
    return rows


def _measure(
    directory: Path, documents: Iterable[TextDocument], config: EvaluateConfig, corpus: Path | None, ranks: RunRanks
) -> tuple[dict[str, Any], Loaded]:
    """The scores of the model in `directory`, by all ranks, and the model; `corpus` is what it was trained on."""
    with ranks.connected(choose_device(config.device).value):
        loaded = _load(directory, config)
        model, tokenizer, *_ = loaded
        if isinstance(model, Encoder):
            scores = evaluate_encoder(model, tokenizer, documents, config, training_shards(directory), ranks)
        else:
            training = training_texts(corpus) if corpus else None
            scores = evaluate(model, tokenizer, documents, config, training, ranks)
    return scores, loaded


def evaluate_stage(
    output: Path, config: EvaluateConfig, model: Path | None = None, ranks: RunRanks = ONE_RANK
) -> Manifest | None:
    """Build `output/evaluation` from a model (`output/model`) and `output/corpus`, unless it is up to date.

    All ranks call this. Rank 0 tells the others whether there is something to measure, and alone returns the manifest.

    It has `scores.json`: what `evaluate` or `evaluate_encoder` returns. Of a decoder, it also has `documents.jsonl`
    (one line per document) and `samples.json`; of a masked language model, `examples.json`.

    Raises:
        InputError: nothing to measure on, or settings that do not fit the model or this machine.
        NeoLMError: the corpus or the model is not finished.
    """
    model, corpus = model or output / "model", output / "corpus"
    if not ranks.first:
        for message in ranks.heard():
            if not message["measures"]:
                break
            _measure(model, read_documents(corpus, "validation"), config, corpus, ranks)
        return None
    inputs = {"model": input_from(model, output), "corpus": input_from(corpus, output)}
    settings = config.model_dump()
    stage = Stage("evaluation", "evaluation", output / "evaluation", inputs, settings, defaults=defaults(config))
    manifest = stage.ensure(lambda directory: _build(directory, corpus, model, config, ranks))
    ranks.tell({"measures": False})
    return manifest


def _build(directory: Path, corpus: Path, source: Path, config: EvaluateConfig, ranks: RunRanks) -> dict[str, Any]:
    def held_out() -> Iterator[Document]:
        return read_documents(corpus, "validation")

    ranks.tell({"measures": True})
    result, (model, tokenizer, device, precision) = _measure(source, held_out(), config, corpus, ranks)
    if isinstance(model, Decoder):
        rows = result.pop("per_document")
        write_text(directory / "documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_json(directory / "samples.json", samples(model, tokenizer, config, held_out()))
    elif model.config.head in MASKED:
        write_json(directory / "examples.json", masked_examples(model, tokenizer, held_out(), config.seed))
    write_json(directory / "scores.json", result)
    say(scores_table(result))
    protocol = next(iter(result["protocols"].values()))
    ends = ("value", "low", "high")
    return {
        **{name: protocol["data"][name] for name in ("documents", "bytes")},
        **({"tokens": sum(row["tokens"] for row in rows)} if isinstance(model, Decoder) else {}),
        "available": protocol["available"],
        **{name: {end: score[end] for end in ends} for name, score in result.items() if "value" in score},
        "device": asdict(device),
        "precision": asdict(precision),
    }


def _load(directory: Path, config: EvaluateConfig) -> Loaded:
    """The model and its tokenizer, and the choices of device and precision."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    stored = open_model(directory, device.value, precision.value, config.quantize)
    if isinstance(stored.config, DecoderConfig):
        require_language_model(stored.config, str(directory))
    model = stored.load()
    kind = f"{model.config.family} is {'a decoder' if isinstance(model, Decoder) else 'an encoder'}"
    for name in FOR_ENCODERS if isinstance(model, Decoder) else FOR_DECODERS:
        if getattr(config, name) != EvaluateConfig.model_fields[name].default:
            say(f"evaluate.{name} has no effect here, because {kind}")
    return model, load_tokenizer(directory, lossless=isinstance(model, Decoder)), device, precision


def training_shards(model: Path) -> Path | None:
    """The shards that a model was trained on, if they are there."""
    return next((place for place, manifest in chain(model) if manifest.stage == "shards"), None)


def training_texts(corpus: Path) -> Texts:
    """A function that returns the texts of the training split of a corpus."""
    return lambda: (document.text for document in read_documents(corpus, "train"))
