"""The end tokens that a model's files list end a text everywhere, and are not shown."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.evaluation.language_model import DecoderLanguageModel
from neolm.generation.batch import generate_ids
from neolm.generation.chat import Session
from neolm.generation.config import GenerationConfig
from neolm.generation.generate import generate, stream
from neolm.models.decoder import Decoder
from neolm.serving.engine import Engine
from neolm.serving.request import Listener
from neolm.tokenizer.chat import PlainTemplate
from neolm.tokenizer.tokenizer import Tokenizer

PROMPT = "The sea"


def with_ends(model: Decoder, ends: tuple[int, ...]) -> Decoder:
    changed = copy.deepcopy(model)
    changed.config = changed.config.model_copy(update={"end_token_ids": ends})
    return changed


@pytest.fixture(scope="module")
def free(neo: Decoder, tokenizer: Tokenizer) -> list[int]:
    """The greedy continuation without further end tokens."""
    config = GenerationConfig(max_new_tokens=20)
    [ids] = generate_ids(neo, [tokenizer.encode(PROMPT)], config, tokenizer.eos_token_id, tokenizer.size)
    return ids


def from_engine(model: Decoder, tokenizer: Tokenizer, **settings: Any) -> str:
    with Engine(model, tokenizer.eos_token_id, tokenizer.size, memory=2**24) as engine:
        listener = Listener()
        engine.submit(tokenizer.encode(PROMPT), GenerationConfig(max_new_tokens=20, **settings), listener)
        ids = list(listener)
    return tokenizer.decode(token for token in ids if token not in engine.end_token_ids)


def from_chat(model: Decoder, tokenizer: Tokenizer, **settings: Any) -> str:
    session = Session(model, tokenizer, GenerationConfig(max_new_tokens=20, **settings), raw=True)
    return "".join(session.say(PROMPT))


WAYS: dict[str, Callable[..., str]] = {
    "generate": lambda model, tokenizer, **more: generate(model, tokenizer, PROMPT, max_new_tokens=20, **more)[0],
    "stream": lambda model, tokenizer, **more: "".join(stream(model, tokenizer, PROMPT, max_new_tokens=20, **more)),
    "speculative": lambda model, tokenizer, **more: generate(
        model, tokenizer, PROMPT, max_new_tokens=20, draft="lookup", **more
    )[0],
    "batch": lambda model, tokenizer, **more: generate(
        model, tokenizer, ["It", PROMPT, "April"], max_new_tokens=20, **more
    )[1],
    "chat": from_chat,
    "engine": from_engine,
    "evaluation": lambda model, tokenizer, **more: DecoderLanguageModel(model, tokenizer).generate_until(
        [(PROMPT, {"max_gen_toks": 20, **more})]
    )[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_listed_end_token_ends_a_text(neo: Decoder, tokenizer: Tokenizer, free: list[int], way: str) -> None:
    assert WAYS[way](neo, tokenizer) == tokenizer.decode(free)
    ends = (free[12], free[5])  # greedy decoding meets the second one first, or the first
    first = min(free.index(end) for end in ends)
    assert WAYS[way](with_ends(neo, ends), tokenizer) == tokenizer.decode(free[:first])
    whole = WAYS[way](with_ends(neo, ends), tokenizer, ignore_eos=True)
    assert whole == tokenizer.decode(token for token in free if token not in ends)


def test_the_end_tokens_of_a_configuration(neo: Decoder) -> None:
    def ends(**fields: Any) -> tuple[int, ...]:
        return neo.config.model_copy(update=fields).end_tokens

    assert ends(eos_token_id=None) == ()
    assert ends(eos_token_id=3) == (3,)
    assert ends(eos_token_id=(3, 4)) == (3, 4)
    assert ends(eos_token_id=3, end_token_ids=()) == ()
    assert ends(eos_token_id=3, end_token_ids=(5,)) == (5,)
    assert "end_token_ids" not in neo.config.model_dump()  # trainings that were started before it existed go on
    assert neo.config.model_copy(update={"end_token_ids": (5,)}).model_dump()["end_token_ids"] == (5,)


def test_special_tokens_without_an_embedding(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    """A padding token that was added without resizing the model is accepted, and refused in a prompt."""
    model = make("gpt-neo", vocab_size=310)
    padded = Tokenizer(type(tokenizer.backend).from_str(tokenizer.backend.to_str()))
    padded.backend.add_special_tokens(["[PAD]"])
    assert (padded.size, padded.text_size) == (311, 310)
    assert generate(model, padded, PROMPT) == generate(model, tokenizer, PROMPT)

    class Padding(PlainTemplate):
        def encode(self, messages: Any) -> list[int]:
            return padded.encode("[PAD]", special=True)

    session = Session(model, padded, GenerationConfig(), template=Padding(padded))
    with pytest.raises(InputError, match="token id 310 at position 0, outside the model's vocabulary"):
        "".join(session.say("x"))
    padded.backend.add_tokens(["ordinary"])
    with pytest.raises(InputError, match="they do not belong together"):
        generate(model, Tokenizer(padded.backend), PROMPT)
