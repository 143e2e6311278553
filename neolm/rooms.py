"""The rooms of the package and the rooms that each of them imports.

A room is a folder of `neolm/`. `tests/test_house.py` compares this table with the import statements of every file, so
a new dependency is added here first. A stage's code digest covers its room and everything that the room depends on.
"""

from __future__ import annotations

ROOMS: dict[str, tuple[str, ...]] = {
    "core": (),
    "metrics": ("core",),
    "formats": ("core",),
    "corpus": ("core", "formats", "kernels"),
    "tables": ("core", "metrics"),
    "tokenizer": ("core", "corpus"),
    "kernels": ("core",),
    "data": ("core", "corpus", "kernels", "tokenizer"),
    "models": ("core", "kernels"),
    "generation": ("core", "kernels", "models", "tokenizer"),
    "embedding": ("core", "models", "tokenizer"),
    "prediction": ("core", "embedding", "generation", "metrics", "models", "tables", "tokenizer"),
    "moderation": ("core", "metrics", "models", "prediction", "tables"),
    "training": ("core", "data", "models", "tokenizer"),
    "distributed": ("core", "data", "models", "training"),
    "finetuning": (
        "core",
        "data",
        "evaluation",
        "generation",
        "metrics",
        "models",
        "prediction",
        "tables",
        "tokenizer",
        "training",
    ),
    "evaluation": (
        "core",
        "corpus",
        "data",
        "generation",
        "metrics",
        "models",
        "prediction",
        "tables",
        "tokenizer",
    ),
    "scaling": ("core", "models", "training"),
    "report": ("core", "models"),
    "serving": ("core", "embedding", "generation", "kernels", "models", "moderation", "prediction", "tokenizer"),
}


def closure(room: str) -> set[str]:
    """`room` and every room that it depends on, directly or through other rooms."""
    return {room}.union(*(closure(dependency) for dependency in ROOMS[room]))
