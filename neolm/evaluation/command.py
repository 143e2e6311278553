"""`neolm evaluate`: a model on its run's held-out text, or on text of the user's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neolm.core.artifact import chain
from neolm.core.config import load_config
from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError
from neolm.corpus.config import CorpusConfig
from neolm.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from neolm.evaluation.measurement import TextDocument


def evaluate_model(
    model: str, text: str | None, overrides: Sequence[str], quantize: str | None = None
) -> dict[str, Any]:
    """Measure `model` (a directory or hub id) on `text` (a file or folder; None: its run's held-out documents).

    The table is printed; the scores, as `neolm.evaluation.evaluate.evaluate` gives them, are returned.

    Raises:
        InputError: no such model or text, nothing held out, or settings that do not fit.
    """
    given = [] if quantize is None else [f"quantize={quantize}"]
    config = load_config(EvaluateConfig, None, [text.removeprefix("evaluate.") for text in (*overrides, *given)])
    from neolm.corpus.documents import read_documents
    from neolm.evaluation.evaluate import evaluate, scores_table
    from neolm.models.hf import load_model, model_directory
    from neolm.tokenizer.tokenizer import load_tokenizer

    directory = model_directory(model)
    documents: Iterable[TextDocument] | None = None if text is None else _raw_documents(text, directory)
    corpus = next((place for place, manifest in chain(directory) if manifest.stage == "corpus"), None)
    if corpus is None and documents is None:
        raise InputError(f"{model}: no held-out text is known for this model; give some: --text FILE_OR_FOLDER")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    decoder = load_model(directory, device.value, precision.value, config.quantize)
    tokenizer = load_tokenizer(directory)

    def training_texts() -> Iterator[str]:
        assert corpus is not None
        return (document.text for document in read_documents(corpus, "train"))

    if documents is None:
        assert corpus is not None
        documents = read_documents(corpus, "validation")
    scores = evaluate(decoder, tokenizer, documents, config, training_texts if corpus is not None else None)
    print(scores_table(scores))
    return scores


def _raw_documents(path: str, model: Path) -> Iterator[TextDocument]:
    """The documents of a file or folder as they are, nothing normalised or dropped but what is no text."""
    from neolm.corpus.records import read_records
    from neolm.corpus.sources import find_files

    config = CorpusConfig(source="files", path=path)
    files = find_files(config, model).files  # the model's own files are not text to measure on
    return (record for file in files for record in read_records(file, config) if record.reason is None)
