"""A pretraining of a small BERT or ALBERT on text-like tokens, for tests of exactness."""

from pathlib import Path
from typing import Any

import numpy as np
from encoder_tokenizers import SPECIAL, NumberTokenizer

from neolm.core.device import Choice
from neolm.corpus.documents import Document
from neolm.data.segment_batches import SegmentBatches, segment_validation_batches
from neolm.data.shards import TokenShards, write_shards
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import objective
from neolm.training.run import Training

T = 48
TOKENIZER = NumberTokenizer(len(SPECIAL) + 96)


def text_like_tokens(count: int, vocabulary: int) -> np.ndarray:
    """Tokens with something to learn, the same everywhere: three likely successors each, and echoes of 20 back."""
    generator = np.random.default_rng(20210321)
    table = generator.integers(0, vocabulary, size=(vocabulary, 3))
    choices, echoes = generator.integers(0, 3, size=count), generator.random(count) < 0.3
    tokens = [1]
    for position in range(1, count):
        echo = echoes[position] and position >= 20
        tokens.append(tokens[position - 20] if echo else int(table[tokens[-1], choices[position]]))
    return np.array(tokens, dtype="<u2")


def write_corpus(directory: Path) -> None:
    """Token shards of 60 documents, with sentences of 3 to 14 tokens."""
    generator = np.random.default_rng(4)
    tokens = (text_like_tokens(20_000, TOKENIZER.size - len(SPECIAL)) + len(SPECIAL)).tolist()
    lines: list[list[str]] = [[] for _ in range(60)]
    start = 0
    for size in generator.integers(3, 15, size=2000):
        lines[start * 60 // len(tokens)].append(" ".join(map(str, tokens[start : start + size])))
        start += size
        if start >= len(tokens):
            break
    documents = [
        Document(f"d{number}", f"d{number}", "\n".join(part), "numbers", "CC0-1.0", "{}")
        for number, part in enumerate(lines)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    write_shards(documents, TOKENIZER, directory, "train")  # type: ignore[arg-type]


def encoder_training(
    family: str, corpus: Path, directory: Path, model: dict[str, Any] | None = None, **settings: Any
) -> Training:
    """A training of `family` on the shards in `corpus`; `model` and `settings` are further fields."""
    sizes = {"vocab_size": TOKENIZER.size, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
    narrow = {"embedding_size": 16} if family == "albert" else {}
    quiet = {"residual_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0}
    defaults = {"steps": 12, "sequence_length": T, "batch_size": 8, "learning_rate": 5e-3, "log_every": 1}
    config = PretrainConfig(**(defaults | settings))
    architecture = encoder_config(family, max_position_embeddings=T, **{**sizes, **narrow, **quiet, **(model or {})})
    shards = TokenShards(corpus, "train", TOKENIZER.size)
    kinds = config.masking, config.segments
    return Training(
        model=Encoder(architecture).initialise(7),
        objective=objective(architecture, config),
        data=SegmentBatches(shards, TOKENIZER, config.lengths, config.batch_sizes, 7, *kinds),
        validation=segment_validation_batches(shards, TOKENIZER, T, 8, 16, *kinds),
        config=config,
        directory=directory,
        device=Choice("cpu", "test"),
        precision=Choice("float32", "test"),
    )
