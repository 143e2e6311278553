"""Every setting is used: a stage reads it, or changing it changes the result. Ignored settings are errors."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import sample_text
from tiny_encoders import write_encoder
from tiny_models import tiny_decoder
from topic_tables import write_csv

import neolm
from neolm.core.config import Config
from neolm.generation.config import generation_config
from neolm.generation.generate import generate
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder_config import EncoderConfig
from neolm.models.families import DECODERS
from neolm.models.hf import save_model
from neolm.models.model_config import ModelConfig
from neolm.recipe import Recipe, load_recipe
from neolm.serving.server.settings import ServeConfig
from neolm.study_config import StudyConfig
from neolm.tokenizer.tokenizer import train_tokenizer

TINY = [
    "tokenizer.vocab_size=300",
    *("model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.window_size=16"),
    *("pretrain.sequence_length=32", "pretrain.batch_size=4", "pretrain.validation_sequences=4"),
    *("evaluate.max_bytes=2000", "evaluate.sample_tokens=4"),
]
# Settings that are read under different conditions need more than one run.
RUNS = (
    ["pretrain.steps=4"],
    [
        *("pretrain.tokens=256", "pretrain.warmup_tokens=128", "pretrain.schedule=warmup-stable-decay"),
        *("pretrain.optimiser=muon", "pretrain.precision=float16"),
    ],
)
FINETUNINGS: tuple[dict[str, Any], ...] = (
    {"optimiser": "muon", "precision": "float16", "schedule": "warmup-stable-decay", "abstain_error": 0.4},
    {"label_column": ("label", "second"), "steps": None, "epochs": 1.0, "ema_decay": 0.5, "final": "average"},
    {"method": "lora"},
)
TOKEN_FINETUNINGS = (
    ("span", [{"question": "is cold ?", "context": f"the {n} was cold .", "answer": n} for n in "abcdefghijklmnop"]),
    ("tokens", [{"tokens": ["the", n], "tags": ["O", "B-LETTER"]} for n in "abcdefghijklmnop"]),
)
WORDS = (("sea", "cold", 0), ("day", "water", 1))
# `ModelConfig.resolve` turns this section into a `DecoderConfig`; both have tests of their own below.
RESOLVED = {("ModelConfig", name) for name in ModelConfig.model_fields}
# A study reads its section and runs recipes without it: tests/test_study.py.
RESOLVED |= {("StudyConfig", name) for name in StudyConfig.model_fields}

Reads = set[tuple[str, str]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The settings that are read, as (class, field). Serialisation reads all of them and does not count."""
    seen: Reads = set()

    def read(self: Config, name: str) -> Any:
        if name in type(self).model_fields:
            seen.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Config, "__getattribute__", read, raising=False)
    return seen


def sections() -> Iterator[type[Config]]:
    """The settings classes of the sections of a recipe."""
    for field in Recipe.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, Config):
                yield kind


def test_every_setting_of_a_recipe_is_read(tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number}.txt").write_text(sample_text(number), encoding="utf-8")
    (texts / "more.jsonl").write_text(json.dumps({"text": sample_text(40)}), encoding="utf-8")

    def load(*arguments: Any) -> Recipe:
        before = set(reads)
        recipe = load_recipe(*arguments)
        reads.intersection_update(before)  # a validator reads settings, but does not use them
        return recipe

    monkeypatch.setattr("neolm.pipeline.load_recipe", load)
    for number, changes in enumerate(RUNS):
        neolm.run("text", [f"corpus.path={texts}", f"output={tmp_path / str(number)}", *TINY, *changes])
    base = write_encoder(tmp_path / "base")
    rows = [(f"the {word} {n}", other, label, 1 - label) for n in "abcdefghij" for word, other, label in WORDS]
    train = write_csv(tmp_path / "train.csv", ("text", "other", "label", "second"), rows)
    for number, changes in enumerate(FINETUNINGS):
        section = {"task": "classification", "train": str(train), "batch_size": 4, "steps": 4, **changes}
        neolm.run({"output": str(tmp_path / f"tuned {number}"), "base": str(base), "finetune": section})
    for task, examples in TOKEN_FINETUNINGS:
        (tmp_path / f"{task}.jsonl").write_text("\n".join(map(json.dumps, examples)), encoding="utf-8")
        section = {"task": task, "train": str(tmp_path / f"{task}.jsonl"), "batch_size": 4, "steps": 2}
        section |= {"max_question_tokens": 8} if task == "span" else {}
        neolm.run({"output": str(tmp_path / task), "base": str(base), "finetune": section})
    wanted = {(section.__name__, name) for section in (*sections(), Recipe) for name in section.model_fields}
    assert wanted - reads - RESOLVED == set()


MODEL_VALUES: dict[str, Any] = {
    "family": "gpt-neox",
    "vocab_size": 512,
    "hidden_size": 64,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "attention_layers": ("local",),
    "window_size": 8,
    "rotary_fraction": 0.5,
    "parallel_residual": False,
    "tie_embeddings": False,
    "activation": "relu",
    "embedding_dropout": 0.5,
    "residual_dropout": 0.5,
    "attention_dropout": 0.5,
    "embedding_size": 16,
    "groups": 2,
    "blocks_per_group": 2,
    "sharing": "attention",
    "initializer_range": 0.05,
    "initialisation": "informed",
}


def test_every_setting_of_the_model_changes_the_architecture() -> None:
    assert {*MODEL_VALUES, "preset"} == set(ModelConfig.model_fields)
    base: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2}

    def resolved(**fields: Any) -> DecoderConfig | EncoderConfig:
        return ModelConfig(**fields).resolve(300, 32, {"bos": 0, "eos": 0})

    for name, value in MODEL_VALUES.items():
        family = {"parallel_residual": "gpt-neox", "rotary_fraction": "gpt-neox"}.get(name, "gpt-neo")
        given = {**base, "family": family}
        if name in {*EncoderConfig.model_fields} - {*DecoderConfig.model_fields}:
            given |= {"family": "albert", "embedding_size": 8}
        assert resolved(**given) != resolved(**{**given, name: value}), name
    assert resolved(preset="gpt2").num_layers == 12


def test_every_setting_of_a_decoder_is_read(reads: Reads, tmp_path: Path) -> None:
    for family in DECODERS:
        model = tiny_decoder(family, 16, num_heads=2)
        save_model(model, tmp_path / family)
        Decoder(model.config).initialise(1)
        save_model(tiny_decoder(family, 16, num_heads=2, head="sequence"), tmp_path / f"{family}-classifier")
    unread = {name for name in DecoderConfig.model_fields if ("DecoderConfig", name) not in reads}
    assert unread == set()


GENERATION_VALUES: dict[str, Any] = {
    "max_new_tokens": 5,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.01,
    "repetition_penalty": 100.0,
    "presence_penalty": 100.0,
    "frequency_penalty": 100.0,
    "logit_bias": {65: 100.0},
    "stop": ("e",),
    "ignore_eos": True,
    "seed": 1,
}


def test_every_setting_of_a_generation_changes_the_text() -> None:
    assert set(GENERATION_VALUES) == set(type(generation_config()).model_fields)
    tokenizer = train_tokenizer(iter([sample_text(seed, 200) for seed in range(3)]), 300)
    model = tiny_decoder("gpt2", 64, 0, 0.3, num_heads=2)
    end = {tokenizer.eos_token_id: 4.0}

    def texts(**settings: Any) -> list[str]:
        base = {"max_new_tokens": 24, "temperature": 1.0, "seed": 0, "logit_bias": end}
        return generate(model, tokenizer, ["the sea", "a clock", "water"], **{**base, **settings})

    for name, value in GENERATION_VALUES.items():
        assert texts(**{name: value}) != texts(), name


def test_every_setting_of_the_server_is_read() -> None:
    folder = Path(neolm.__file__).parent / "serving"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert set(ServeConfig.model_fields) - read == set()
