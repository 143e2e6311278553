"""Export of feedback as data for preference learning: JSON lines of prompt, chosen and rejected."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neolm.core.files import check_output_file, write_text
from neolm.serving.server.feedback import FeedbackStore, default_url


def preferences(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pairs from choices without ties, and from opposite ratings of different answers to the same prompt."""
    rated: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: {"up": [], "down": []})
    for row in rows:
        if row["kind"] == "choice":
            if row["chosen"] is not None and row["answers"][0]["text"] != row["answers"][1]["text"]:
                yield _line(row, {}, chosen=row["answers"][row["chosen"]], rejected=row["answers"][1 - row["chosen"]])
        else:
            rated[json.dumps([row["mode"], row["prompt"]])][row["rating"]].append(row)
    for sides in rated.values():
        for better, worse in zip(sides["up"], sides["down"], strict=False):
            if better["answers"][0]["text"] != worse["answers"][0]["text"]:
                yield _line(worse, {}, chosen=better["answers"][0], rejected=worse["answers"][0])


def ratings(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rated answers with a label: true for a rating up."""
    for row in rows:
        if row["kind"] == "rating":
            yield _line(row, {"label": row["rating"] == "up"}, completion=row["answers"][0])


def export(url: str | None, target: Path, single: bool = False) -> int:
    """Write preferences, or ratings if `single`, as JSON lines; return the number of lines."""
    check_output_file(target, "feedback.jsonl", "an export of feedback", '{"prompt"')
    with contextlib.closing(FeedbackStore(url or default_url())) as store:
        rows = (ratings if single else preferences)(store.rows())
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(target, "".join(lines))
    return len(lines)


def _line(row: dict[str, Any], label: dict[str, bool], **answers: dict[str, Any]) -> dict[str, Any]:
    chat = row["mode"] == "chat"
    texts = {
        name: [{"role": "assistant", "content": answer["text"]}] if chat else answer["text"]
        for name, answer in answers.items()
    }
    keys = ("model", "digest", "settings")
    models = {name: {key: answer[key] for key in keys} for name, answer in answers.items()}
    origin = {"id": row["id"], "created": row["created"].isoformat(), "source": row["kind"], "models": models}
    return {"prompt": row["prompt"]} | texts | label | origin
