"""Tables that a tiny encoder can learn, and the settings of a quick fine-tuning."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUICK = ("finetune.epochs=6", "finetune.batch_size=8", "finetune.learning_rate=5e-3", "finetune.precision=float32")
TOPICS = {"coast": ["sea", "water"], "time": ["day", "clock"]}


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def sentence(topic: str, draw: random.Random) -> str:
    filling = ["the", "cold", "and", "of", "is", "in", "was"]
    words = [draw.choice(filling) for _ in range(draw.randrange(2, 6))]
    words.insert(draw.randrange(len(words) + 1), draw.choice(TOPICS[topic]))
    return " ".join(words)
