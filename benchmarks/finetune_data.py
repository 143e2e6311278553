"""Data of the fine-tuning benchmark: the token ids and labels that all contestants train on, and facts about them.

As a program it reads its job as JSON from the command line and writes `examples.json` and `facts.json`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from neolm.prediction.text_windows import encode_texts
from neolm.tables.examples import read_examples
from neolm.tables.table import open_table
from neolm.tokenizer.tokenizer import load_tokenizer


def main() -> None:
    job = json.loads(sys.argv[1])
    examples = read_examples(open_table(Path(job["table"])), job["text_column"], job["label_column"])
    names = sorted(set(examples.labels))
    numbers = {name: number for number, name in enumerate(names)}
    encoded = encode_texts(load_tokenizer(job["model"]), examples.texts, None, job["max_length"], "truncate")
    ids = [list(text.windows[0]) for text in encoded]
    lengths = [len(each) for each in ids]
    stored = {"input_ids": ids, "labels": [numbers[label] for label in examples.labels], "names": names}
    (Path(job["data"]) / "examples.json").write_text(json.dumps(stored), encoding="utf-8")
    order = random.Random(1).sample(lengths, len(lengths))
    batches = [order[start : start + job["batch_size"]] for start in range(0, len(order), job["batch_size"])]
    facts = {
        "examples": len(ids),
        "labels": len(names),
        "mean_tokens": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "padding": 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches),
    }
    (Path(job["data"]) / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
