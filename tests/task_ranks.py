"""Fine-tunings of tiny models, for `test_task_ranks.py`; run under torchrun, it is one rank of several."""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

from tiny_encoders import write_encoder
from tiny_models import tiny_decoder
from topic_tables import TOPICS, sentence, write_csv

from neolm.core.ranks import RunRanks
from neolm.distributed.ranks import joined
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.finetune import finetune
from neolm.finetuning.fit import Team
from neolm.models.hf import save_model
from neolm.stages import shared_training
from neolm.tokenizer.tokenizer import train_tokenizer

LAYERS = {"frozen_layers": 1, "epochs": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "full": {"class_weights": "balanced", "micro_batch_size": 2, "ema_decay": 0.9, "final": "average"},
    "lora": {"method": "lora"},
    "layers": LAYERS,
    "layers-on-disk": LAYERS | {"cache_frozen": True},
    "seeds": {"seeds": 2, "reinitialised_layers": 1, "epochs": 1.0},
    "search": {"search": {"learning_rate": (1e-3, 2e-3), "batch_size": (6, 7)}, "epochs": 1.0},
    "pair": {"task": "pair", "second_column": "second", "optimiser": "lamb"},
    "regression": {"task": "regression", "label_column": ("number",)},
    "several": {"label_column": ("coast", "time")},
    "probe": {"method": "probe"},
    "span": {"task": "span", "train": "questions.json"},
    "tokens": {"task": "tokens", "train": "tags.jsonl"},
    "choice": {"task": "choice", "option_columns": ("first", "other"), "label_column": ("answer",)},
    "instruct": {"task": "instruct", "base": "decoder", "label_column": ("second",)},
    "instruct-lora": {"task": "instruct", "base": "decoder", "label_column": ("second",), "method": "lora"},
}


def write_files(place: Path) -> None:
    """Base models, and a table that serves most tasks."""
    write_encoder(place / "base")
    tokenizer = train_tokenizer(iter(["the sea and the water of the cold day is in the clock"] * 3), 280)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    quiet = {"residual_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    save_model(tiny_decoder("gpt-neo", 64, vocab_size=280, spread=0.05, **ends, **quiet), place / "decoder")
    tokenizer.save(place / "decoder")
    draw, rows, tags, articles = random.Random(1), [], [], []
    for number in range(40):
        topic = [*TOPICS][number % 2]
        text, second = sentence(topic, draw), sentence(topic, draw)
        rows.append((text, topic, second, number % 7 / 7, number % 2, number % 3 % 2, text[:9], second[:9], number % 2))
        words = text.split()
        tags.append({"tokens": words, "tags": ["B-X" if word in ("sea", "day") else "O" for word in words]})
        answer = {"text": words[1], "answer_start": len(words[0]) + 1}
        questions = [{"id": str(number), "question": f"is {topic} ?", "answers": [answer]}]
        articles.append({"title": str(number), "paragraphs": [{"context": text, "qas": questions}]})
    header = ("text", "label", "second", "number", "coast", "time", "first", "other", "answer")
    write_csv(place / "table.csv", header, rows)
    (place / "tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    (place / "questions.json").write_text(json.dumps({"data": articles}))


def tune(case: str, place: Path, output: Path, ranks: RunRanks, shard: int = 1) -> None:
    """Fine-tune to `case` in `output/case`, with the files in `place`."""
    given = dict(CASES[case])
    base = place / given.pop("base", "base")
    config = FinetuneConfig.model_validate(
        {
            "task": "classification", "batch_size": 7, "epochs": 2.0, "precision": "float32", "log_every": 1,
            "device": "cpu", "compile": False, "learning_rate": 2e-3, "tfidf": False, "parallel": {"shard": shard},
            "validate_every": 3, "checkpoint_every": 4, "patience": None, "cache_frozen": False,
            **given, "train": str(place / given.get("train", "table.csv")),
        }
    )  # fmt: skip
    (output / case).mkdir(parents=True, exist_ok=True)
    finetune(output / case, base, config, 3, Team(ranks, partial(shared_training, ranks)))


def main() -> None:
    """Arguments: the directory of the files, that of the outputs, shard, the cases."""
    place, output, shard, *cases = sys.argv[1:]
    with joined() as ranks:
        for case in cases:
            tune(case, Path(place), Path(output), ranks, int(shard))


if __name__ == "__main__":
    main()
