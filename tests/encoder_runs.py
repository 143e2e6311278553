"""A small encoder run from text to report, for tests of what follows the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer


def wordpiece_vocabulary(directory: Path, texts: Path) -> Path:
    """Write a WordPiece vocabulary of the files in `texts` to `directory`, as BERT publishes it."""
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train([str(path) for path in texts.iterdir()], vocab_size=300, show_progress=False)
    tokenizer.save_model(str(directory))
    return directory


def encoder_recipe(
    output: Path, texts: Path, vocabulary: Path, family: str = "bert", evaluate: Any = None, **changes: Any
) -> dict[str, Any]:
    """A recipe of 30 steps; `changes` are settings of `pretrain`."""
    narrow = {"embedding_size": 16} if family == "albert" else {}
    return {
        "output": str(output),
        "seed": 3,
        "corpus": {"source": "files", "path": str(texts)},
        "tokenizer": {"path": str(vocabulary)},
        "model": {"family": family, "hidden_size": 32, "num_layers": 2, "num_heads": 2, **narrow},
        "pretrain": {
            "steps": 30,
            "sequence_length": 48,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "warmup_steps": 5,
            "validate_every": 10,
            "validation_sequences": 16,
            "log_every": 1,
            "segments": {"task": "sop"},
            **changes,
        },
        "evaluate": evaluate,
    }
