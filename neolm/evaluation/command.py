"""Measure a model directory on the held-out text of its run, or on other text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neolm.core.artifact import chain
from neolm.core.config import load_config
from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError, SettingError
from neolm.corpus.config import CorpusConfig
from neolm.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from neolm.evaluation.measurement import TextDocument


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
    config = load_config(EvaluateConfig, settings, [text.removeprefix("evaluate.") for text in overrides])
    from neolm.corpus.documents import read_documents
    from neolm.evaluation.evaluate import evaluate, training_texts
    from neolm.models.hf import load_model, model_directory
    from neolm.tokenizer.tokenizer import load_tokenizer

    directory = model_directory(model)
    documents: Iterable[TextDocument] | None = None if text is None else _raw_documents(text, directory)
    corpus = next((place for place, manifest in chain(directory) if manifest.stage == "corpus"), None)
    if corpus is None and documents is None:
        raise InputError(f"{model}: there is no held-out text of this model. Give a file or folder as text (--text)")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    decoder = load_model(directory, device.value, precision.value, config.quantize)
    tokenizer = load_tokenizer(directory)
    if documents is None:
        assert corpus is not None
        documents = read_documents(corpus, "validation")
    return evaluate(decoder, tokenizer, documents, config, training_texts(corpus) if corpus else None)


def _raw_documents(path: str | Path, model: Path) -> Iterator[TextDocument]:
    """The documents of a file or folder without normalisation or filters; only unreadable ones are left out."""
    from neolm.corpus.records import read_records
    from neolm.corpus.sources import find_files

    config = CorpusConfig(source="files", path=str(path))
    try:
        files = find_files(config, model).files  # the model's own files are not text to measure on
    except SettingError as error:
        raise InputError(f"text: {error.problem}") from None
    return (record for file in files for record in read_records(file, config) if record.reason is None)
