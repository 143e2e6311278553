"""`neolm evaluate`: a model on its run's held-out text, or on text of the user's."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neolm.core.artifact import chain
from neolm.core.config import load_config
from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.corpus.config import CorpusConfig
from neolm.evaluation.config import EvaluateConfig


def evaluate_model(model: str, text: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Measure `model` (a directory or hub id) on `text` (a file or folder; None: its run's held-out documents).

    The table goes to standard error; the scores, as `neolm.evaluation.evaluate.evaluate` gives them, are returned.

    Raises:
        InputError: no such model or text, nothing held out, or settings that do not fit.
    """
    config = load_config(EvaluateConfig, None, overrides)
    from neolm.corpus.build import build_corpus
    from neolm.corpus.documents import read_documents
    from neolm.evaluation.evaluate import evaluate, scores_table
    from neolm.models.hf import load_model, model_directory
    from neolm.tokenizer.tokenizer import load_tokenizer

    directory = model_directory(model)
    corpus = next((place for place, manifest in chain(directory) if manifest.stage == "corpus"), None)
    if corpus is None and text is None:
        raise InputError(f"{model}: no held-out text is known for this model; give some: --text FILE_OR_FOLDER")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device.value)
    decoder, tokenizer = load_model(directory, device.value, precision.value), load_tokenizer(directory)

    def training_texts() -> Iterator[str]:
        assert corpus is not None
        return (document.text for document in read_documents(corpus, "train"))

    with tempfile.TemporaryDirectory() as scratch:
        if text is not None:
            build_corpus(Path(scratch), CorpusConfig(source="files", path=text, min_characters=1))
            measured = Path(scratch) / "corpus"
            documents = itertools.chain(read_documents(measured, "train"), read_documents(measured, "validation"))
        else:
            assert corpus is not None
            documents = itertools.chain(read_documents(corpus, "validation"))
        scores = evaluate(decoder, tokenizer, documents, config, training_texts if corpus is not None else None)
    say(scores_table(scores))
    return scores
