"""The `model` section of a recipe: errors name the key within the section."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import neolm
from neolm.core.errors import SettingError
from neolm.models.config import DecoderConfig, decoder_config
from neolm.models.encoder_config import EncoderConfig
from neolm.models.families import DECODERS, ENCODERS, FAMILIES
from neolm.models.model_config import ModelConfig

SIZES = {"family": "gpt2", "hidden_size": 32, "num_layers": 2, "num_heads": 4}


@pytest.mark.parametrize(
    ("settings", "key", "problem"),
    [
        ({}, "preset", "give a preset, or a family with its sizes"),
        ({"preset": "gpt5"}, "preset", "unknown preset 'gpt5'"),
        ({"preset": "pythia-14m", "family": "gpt-neo"}, "family", "pythia-14m is of the family gpt-neox, not gpt-neo"),
        (SIZES | {"num_layers": None}, "num_layers", "must be given"),
        (SIZES | {"num_heads": 5}, "hidden_size", "32 is not a multiple of num_heads 5"),
        (SIZES | {"attention_layers": ()}, "attention_layers", "at least one kind"),
        (SIZES | {"family": "gpt-neox", "rotary_fraction": 0.01}, "rotary_fraction", "rotates 0 channels"),
        (SIZES | {"vocab_size": 20}, "vocab_size", "20 is less than the tokenizer's 300 tokens"),
    ],
)
def test_errors_name_the_key_and_the_problem(settings: dict[str, Any], key: str, problem: str) -> None:
    with pytest.raises(SettingError) as caught:
        ModelConfig(**settings).resolve(300, 64, {})
    assert caught.value.key == key
    assert problem in caught.value.problem


def test_a_wrong_field_of_a_decoder_is_named() -> None:
    with pytest.raises(SettingError, match=r"^activation: "):
        decoder_config("gpt2", vocab_size=8, hidden_size=8, num_layers=1, num_heads=1, activation="gelo")


def test_the_context_is_the_preset_s_or_the_sequence_length() -> None:
    assert ModelConfig(**SIZES).resolve(300, 64, {}).max_position_embeddings == 64
    assert ModelConfig(preset="gpt2").resolve(300, 64, {}).max_position_embeddings == 1024
    assert ModelConfig(preset="gpt2").resolve(300, 64, {}).vocab_size == 300


def test_the_end_of_text_token_begins_texts_too() -> None:
    config = ModelConfig(**SIZES).resolve(300, 64, {"bos": 7, "eos": 7})
    assert (config.bos_token_id, config.eos_token_id) == (7, 7)


def test_settings_without_effect_are_those_of_the_preset_s_family_too() -> None:
    assert ModelConfig(preset="pythia-14m", window_size=8).ignored() == {"window_size": "no layer has local attention"}
    assert ModelConfig(preset="gpt2", rotary_fraction=0.5).ignored() == {
        "rotary_fraction": "gpt2 has no rotary positions"
    }
    assert ModelConfig(preset="gpt-neo-125m", window_size=8).ignored() == {}
    assert ModelConfig(preset="gpt-neo-125", window_size=8).ignored() == {}


def test_the_settings_offer_every_family() -> None:
    (choices, _) = get_args(ModelConfig.model_fields["family"].annotation)
    assert list(get_args(choices)) == list(FAMILIES)
    assert set(get_args(DecoderConfig.model_fields["family"].annotation)) == {f.name for f in DECODERS.values()}
    assert set(get_args(EncoderConfig.model_fields["family"].annotation)) == {f.name for f in ENCODERS.values()}


def test_presets_are_listed_without_importing_torch() -> None:
    script = "import sys; from neolm.describe import presets_table; presets_table(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_code_outside_of_a_family_s_file_compares_families() -> None:
    package = Path(neolm.__file__).parent
    sources = {path: path.read_text() for path in package.rglob("*.py") if path.parent.name != "families"}
    assert len(sources) > 100
    assert not [
        path
        for path, text in sources.items()
        if re.search(r"family\"?\]? (==|!=|in \(|in \[|in \{)|match .*family", text)
    ]
