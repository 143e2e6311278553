"""Every option of `neolm generate` and `neolm chat` has its effect."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neolm.generation.chat import Session
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import block_bytes
from neolm.models import hf
from neolm.models.decoder import Decoder
from neolm.tokenizer.chat import Message
from neolm.tokenizer.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def directory(make: Callable[..., Decoder], tokenizer: Tokenizer, tmp_path: Path) -> Path:
    hf.save_model(make("gpt2"), tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("Q {{ messages[0].content }} A", encoding="utf-8")
    return tmp_path / "model"


def test_a_misspelt_lookup_is_suggested(
    directory: Path, neolm_: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for draft in ("lokup", "look-up", "Lookup"):
        code, _, said = neolm_("generate", directory, "The ", "--draft", draft)
        assert (code, said) == (2, f"neolm: draft: {draft}: no such model directory; did you mean 'lookup'?\n")
    assert "did you mean" not in neolm_("generate", directory, "The ", "--draft", "small")[2]


def test_generate_passes_its_settings_on(directory: Path, neolm_: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("neolm.generation.generate.stream", lambda *given: calls.append(given) or ["text"])
    options = (
        "--max-new-tokens 3 --temperature 0.5 --top-k 4 --top-p 0.9 --repetition-penalty 1.5 --seed 6 --ignore-eos"
    )
    more = ["--stop", "a", "--stop", "b", "--draft", "lookup"]
    assert neolm_("generate", directory, "The ", *options.split(), *more)[:2] == (0, "The text\n")
    [(_, _, prompt, config, draft)] = calls
    assert (prompt, draft) == ("The ", "lookup")
    assert config == GenerationConfig(
        max_new_tokens=3,
        temperature=0.5,
        top_k=4,
        top_p=0.9,
        repetition_penalty=1.5,
        seed=6,
        ignore_eos=True,
        stop=("a", "b"),
    )
    assert neolm_("generate", directory)[0] == 0
    assert calls[1][2:] == ("", GenerationConfig(), None)  # the defaults are the same


def test_chat_passes_its_settings_on(directory: Path, neolm_: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Session] = []
    monkeypatch.setattr("neolm.generation.chat.converse", lambda session, *_: sessions.append(session))
    assert neolm_("chat", directory)[0] == 0
    options = "--raw --max-new-tokens 3 --temperature 0.5 --top-p 0.9 --seed 6 --draft lookup"
    assert neolm_("chat", directory, *options.split())[0] == 0
    default, other = sessions
    assert default.config == GenerationConfig(max_new_tokens=256, temperature=0.8, top_p=0.95)
    assert other.config == GenerationConfig(max_new_tokens=3, temperature=0.5, top_p=0.9, seed=6)
    assert [(session.raw, session.draft) for session in sessions] == [(False, None), (True, "lookup")]
    ids = default.template.encode([Message("user", "the sea")])
    assert default.tokenizer.decode(ids) == "Q the sea A"  # the template of the model directory


def test_a_chat_about_a_claimed_context_says_what_fits(
    make: Callable[..., Decoder], tokenizer: Tokenizer, neolm_: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make("gpt-neox", context=2**24)
    hf.save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    monkeypatch.setattr("neolm.core.device.free_memory", lambda device: 10 * block_bytes(model.config, model.dtype))
    monkeypatch.setattr("sys.stdin", io.StringIO("the sea\n"))
    code, printed, said = neolm_("chat", tmp_path / "model", "--device", "cpu")
    assert (code, said.count("\n")) == (0, 1)
    assert said.startswith("chat: texts are limited to 128 tokens of the context of 16,777,216 (config.json)")
    assert printed.count("> ") == 2


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_models_are_loaded_as_requested(
    command: str, directory: Path, neolm_: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    load = hf.load_model
    monkeypatch.setattr(hf, "load_model", lambda *given: loads.append(given) or load(given[0], "cpu"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    options = "--device cpu --dtype bfloat16 --quantize int8 --offload disk"
    assert neolm_(command, directory, *options.split(), "--draft", directory)[0] == 0
    draft = (directory, "cpu", None, None, None)  # as it is stored
    assert loads == [(directory, "cpu", "bfloat16", "int8", "disk"), draft]
