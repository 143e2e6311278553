"""The rooms of the package and the rooms that each of them imports.

A room is a folder of `neolm/`. `tests/test_house.py` compares this table with the import statements of every file, so
a new dependency is added here first. A stage's code digest covers its room and everything that the room depends on.
"""

from __future__ import annotations

ROOMS: dict[str, tuple[str, ...]] = {
    "core": (),
    "corpus": ("core",),
    "tokenizer": ("core", "corpus"),
    "kernels": ("core",),
    "data": ("core", "corpus", "kernels", "tokenizer"),
    "models": ("core", "kernels"),
    "generation": ("core", "kernels", "models", "tokenizer"),
    "embedding": ("core", "models", "tokenizer"),
    "prediction": ("core", "generation", "models", "tokenizer"),
    "training": ("core", "data", "models", "tokenizer"),
    "evaluation": ("core", "corpus", "data", "generation", "models", "prediction", "tokenizer"),
    "scaling": ("core", "models", "training"),
    "report": ("core", "models"),
    "serving": ("core", "embedding", "generation", "kernels", "models", "tokenizer"),
}


def closure(room: str) -> set[str]:
    """`room` and every room that it depends on, directly or through other rooms."""
    return {room}.union(*(closure(dependency) for dependency in ROOMS[room]))
