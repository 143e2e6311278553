"""Speculative decoding never changes a token, with any proposer, settings, model runner and batch."""

from __future__ import annotations

import copy
import io
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import quantize

import neolm.cli
from neolm.core.errors import InputError
from neolm.generation.batch import Batch, generate_ids
from neolm.generation.chat import Session
from neolm.generation.config import GenerationConfig
from neolm.generation.generate import generate, stream, text_deltas
from neolm.generation.kernel_runner import KernelRunner
from neolm.generation.model_runner import ModelRunner, TorchRunner
from neolm.generation.sampling import prompt_generators
from neolm.generation.speculative import DraftLength, LookupProposer, Proposer, check_vocabulary, proposers
from neolm.models.decoder import Decoder
from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

VOCABULARY = 310
PROMPTS = ["The sea is water. The sea is", "", "It was a bright cold day in April, and it was a bright cold day", "é🙂"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.3, "top_k": 20, "top_p": 0.9, "seed": 4},
    {"repetition_penalty": 1.5},
    {"temperature": 0.7, "repetition_penalty": 1.3, "seed": 5, "ignore_eos": True, "stop": ["e"]},
    {"stop": ["a", "he", "\n"], "max_new_tokens": 99},
]


class Prompter:
    """Proposes the tokens of `text`, with those at `wrong` replaced."""

    def __init__(self, text: Sequence[int], wrong: set[int] | None = None) -> None:
        self.text, self.wrong = text, wrong or set()
        self.asked: list[int] = []

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        self.asked.append(count)
        places = range(len(ids), min(len(ids) + count, len(self.text)))
        return [self.text[place] ^ (place in self.wrong) for place in places]


def make_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    guesses: Any = None,
    eos: int | None = None,
    runner: ModelRunner | None = None,
) -> Batch:
    """Make a batch; `guesses` are proposers by row, or a draft for `proposers`."""
    rows, generators = dict(enumerate(prompts)), dict(enumerate(prompt_generators(prompts, config.seed)))
    if not isinstance(guesses, Mapping):
        guesses = proposers(guesses, rows, generators, config, VOCABULARY)
    return Batch(model, rows, config, generators, eos, VOCABULARY, proposers=guesses, runner=runner)


def finish(batch: Batch) -> Batch:
    while batch.running:
        batch.step()
    return batch


def exact_torch(model: Decoder) -> TorchRunner:
    """Runner in float64: in float32, torch rounds several tokens differently from one, and samples could differ."""
    return TorchRunner(copy.deepcopy(model).double())


def random_ids(length: int, seed: int = 0) -> list[int]:
    return [random.Random(f"{seed} {place}").randrange(VOCABULARY) for place in range(length)]


@pytest.fixture(params=["lookup", "itself", "another", "shorter"])
def draft(request: pytest.FixtureRequest, model: Decoder, make: Callable[..., Decoder]) -> Any:
    """Every kind of draft."""
    others = {
        "another": lambda: make("gpt-neo", vocab_size=320, hidden_size=16, num_layers=1, seed=7),
        "shorter": lambda: make("gpt-neox", context=24, seed=8),
    }
    return {"lookup": "lookup", "itself": model}.get(request.param) or others[request.param]()


@pytest.mark.parametrize("fields", SETTINGS)
def test_the_text_equals_that_without_a_draft(
    model: Decoder, tokenizer: Tokenizer, draft: Any, fields: dict[str, Any]
) -> None:
    fields = {"max_new_tokens": 30, **fields}
    expected = generate(model, tokenizer, PROMPTS, **fields)
    assert generate(model, tokenizer, PROMPTS, draft=draft, **fields) == expected
    for prompt, text in zip(PROMPTS, expected, strict=True):
        parts = list(stream(model, tokenizer, prompt, GenerationConfig(**_tuple(fields)), draft))
        assert "".join(parts) == text
        assert all(parts)


def _tuple(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "stop": tuple(fields.get("stop", ()))}


@settings(max_examples=60)
@given(st.data())
def test_no_guess_changes_a_token(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """Any prompts, settings, ends and model runner; any guess may be wrong."""
    family = data.draw(st.sampled_from(["gpt2", "gpt-neo", "gpt-neox", "gpt-neox-sequential"]))
    model = make(family, context=48)
    kind = data.draw(
        st.sampled_from([exact_torch, lambda model: KernelRunner(model, max_decode_tokens=5), KernelRunner])
    )
    prompts = [random_ids(data.draw(st.integers(1, 47)), seed) for seed in range(data.draw(st.integers(1, 4)))]
    config = GenerationConfig(
        max_new_tokens=data.draw(st.sampled_from([1, 2, 7, 60])),
        temperature=data.draw(st.sampled_from([0.0, 0.0, 0.5, 1.5])),
        repetition_penalty=data.draw(st.sampled_from([1.0, 1.4])),
        top_k=data.draw(st.sampled_from([None, 30])),
        seed=data.draw(st.integers(0, 9)),
    )
    eos = data.draw(st.sampled_from([None, *range(0, VOCABULARY, 20)]))
    plain = finish(make_batch(model, prompts, config, {}, eos, kind(model)))
    guesses = {
        row: Prompter([*ids, *([eos] if eos else []), 1, 2, 3], data.draw(st.sets(st.integers(0, 50), max_size=20)))
        for row, ids in plain.ids.items()
        if data.draw(st.booleans()) or row == 0
    }
    batch = finish(make_batch(model, prompts, config, guesses, eos, kind(model)))
    assert batch.ids == plain.ids
    assert batch.finish_reasons == plain.finish_reasons
    assert batch.forward_passes <= plain.forward_passes
    assert batch.num_accepted_tokens <= batch.num_draft_tokens


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0, "seed": 2}])
def test_quantised_weights(make: Callable[..., Decoder], form: str, fields: dict[str, Any]) -> None:
    model = copy.deepcopy(make("gpt-neo", hidden_size=96))
    model = quantize(model, form) if form.startswith("int") else model.to(getattr(torch, form))
    prompts, config = [random_ids(9, seed) for seed in range(3)], GenerationConfig(max_new_tokens=50, **fields)
    expected = generate_ids(model, prompts, config, vocab_size=VOCABULARY)
    for guesser in ("lookup", model, make("gpt2")):
        assert generate_ids(model, prompts, config, vocab_size=VOCABULARY, draft=guesser) == expected


@pytest.mark.parametrize("runner", [KernelRunner, TorchRunner])
@pytest.mark.parametrize("fields", SETTINGS[:4])
def test_the_model_as_its_own_draft_is_always_accepted(
    model: Decoder, fields: dict[str, Any], runner: Callable[[Decoder], ModelRunner]
) -> None:
    """Sampled tokens too, because the draft uses the same random numbers."""
    config = GenerationConfig(max_new_tokens=49, **fields)
    plain = finish(make_batch(model, [random_ids(10)], config, runner=runner(model)))
    batch = finish(make_batch(model, [random_ids(10)], config, model, runner=runner(model)))
    assert batch.ids == plain.ids
    assert (plain.forward_passes, plain.num_draft_tokens) == (49, 0)
    assert batch.num_accepted_tokens == batch.num_draft_tokens == 49 - batch.forward_passes
    assert batch.forward_passes <= 6  # after the prompt: 5, 9, 17 tokens and the rest


class Repeating(torch.nn.Module):
    """Fake model that repeats `script`."""

    def __init__(self, model: Decoder, script: Sequence[int]) -> None:
        super().__init__()
        self.config, self.script, self.widths = model.config, script, list[int]()
        self.device, self.dtype, self.quantized = torch.device("cpu"), torch.float32, None

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, **_: object) -> torch.Tensor:
        self.widths.append(ids.shape[1])
        return positions.expand(ids.shape).unsqueeze(-1)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        wanted = [self.script[int(position) % len(self.script)] for position in hidden.flatten()]
        return torch.nn.functional.one_hot(torch.tensor(wanted), self.config.vocab_size).float()


def test_text_that_repeats_takes_few_forward_passes(make: Callable[..., Decoder]) -> None:
    model: Any = Repeating(make("gpt2", context=256), [5, 6, 7, 8, 9])
    batch = finish(make_batch(model, [[5]], GenerationConfig(max_new_tokens=100), "lookup"))
    assert batch.ids[0] == [5, *[5, 6, 7, 8, 9] * 20]
    assert batch.forward_passes <= 15
    assert max(model.widths) <= 32
    assert batch.num_accepted_tokens == 100 - batch.forward_passes


def test_text_that_never_repeats_has_no_guesses(make: Callable[..., Decoder]) -> None:
    model: Any = Repeating(make("gpt2", context=256), range(250))
    batch = finish(make_batch(model, [[300]], GenerationConfig(max_new_tokens=200), "lookup"))
    assert (batch.forward_passes, batch.num_draft_tokens, set(model.widths)) == (200, 0, {1})


def test_wrong_guesses_become_rare(make: Callable[..., Decoder]) -> None:
    model: Any = Repeating(make("gpt2", context=256), range(250))
    guesser = Prompter([300] * 256)
    batch = finish(make_batch(model, [[300]], GenerationConfig(max_new_tokens=200), {0: guesser}))
    assert (batch.forward_passes, batch.num_accepted_tokens) == (200, 0)
    assert batch.num_draft_tokens <= 200 // 10
    assert sorted(guesser.asked)[-2:] == [1, 4]  # four at first, then one at a time


def test_rows_with_different_numbers_of_accepted_guesses(make: Callable[..., Decoder]) -> None:
    model, config = make("gpt-neo"), GenerationConfig(max_new_tokens=40, repetition_penalty=1.2)
    prompts = [random_ids(length, length) for length in (3, 20, 9)]
    plain = finish(make_batch(model, prompts, config))
    guesses = {0: Prompter(plain.ids[0]), 1: Prompter(plain.ids[1], {25, 33, 34, 50})}
    batch = make_batch(model, prompts, config, guesses)
    while batch.running:
        given = batch.step()
        assert len({row for row, _ in given}) == len(given)  # one token a row and step
    assert batch.ids == plain.ids
    assert batch.forward_passes == plain.forward_passes == 40  # the third row has no proposer
    assert finish(make_batch(model, prompts[:2], config, guesses)).forward_passes < 20


def test_many_rows_have_no_guesses(make: Callable[..., Decoder]) -> None:
    prompts, config = [random_ids(3, seed) for seed in range(33)], GenerationConfig(max_new_tokens=8)
    batch = finish(make_batch(make("gpt2"), prompts, config, "lookup"))
    assert (batch.forward_passes, batch.num_draft_tokens) == (8, 0)


def test_a_prompt_is_computed_as_without_a_draft(neo: Decoder) -> None:
    """With more tokens the runner would take the prefill path, with other bits."""
    plain = finish(make_batch(neo, [random_ids(30)], GenerationConfig(max_new_tokens=10)))
    for few in (29, 30, 31, 33):
        guesser = Prompter(plain.ids[0])
        config, runner = GenerationConfig(max_new_tokens=10), KernelRunner(neo, max_decode_tokens=few)
        batch = make_batch(neo, [random_ids(30)], config, {0: guesser}, runner=runner)
        batch.step()
        assert guesser.asked == [few - 30] * (few > 30)


@pytest.mark.parametrize("penalty", [1.0, 1.6])
def test_a_draft_model_removes_wrong_guesses_from_its_cache(model: Decoder, penalty: float) -> None:
    """It proposes what it would propose for the text alone, whichever guesses were accepted."""
    config, luck = GenerationConfig(max_new_tokens=50, repetition_penalty=penalty), random.Random(0)
    text, proposed = random_ids(6), list[int]()
    proposer = proposers(model, {0: text}, {0: luck}, config, VOCABULARY)[0]
    while len(text) < 50:
        right = luck.randint(0, len(proposed))
        text = text + proposed[:right] + random_ids(luck.randint(1, 2), len(text))
        proposed = proposer.propose(text, luck.randint(1, 5))
        plain = config.model_copy(update={"max_new_tokens": len(proposed)})
        assert generate_ids(model, [text], plain, vocab_size=VOCABULARY) == [proposed]


def test_a_draft_with_a_shorter_context_stops_guessing(make: Callable[..., Decoder]) -> None:
    model, config = make("gpt-neo"), GenerationConfig(max_new_tokens=99)
    plain = finish(make_batch(model, [[1, 2]], config))
    with torch.no_grad():
        short = make("gpt-neo", context=20)
        short.load_state_dict({**model.state_dict(), "positions.weight": model.positions.weight[:20]})  # type: ignore[union-attr]
    batch = finish(make_batch(model, [[1, 2]], config, short))
    assert batch.ids == plain.ids
    assert batch.num_accepted_tokens == batch.num_draft_tokens > 0
    assert batch.num_draft_tokens < 20
    assert finish(make_batch(model, [random_ids(30)], config, short)).num_draft_tokens == 0


def test_a_draft_never_gets_a_token_that_it_does_not_embed(make: Callable[..., Decoder]) -> None:
    model, config = make("gpt2"), GenerationConfig(max_new_tokens=20)
    prompt = [3, 325, 4]
    [expected] = generate_ids(model, [prompt], config, vocab_size=VOCABULARY)
    small = make("gpt2", vocab_size=VOCABULARY, num_layers=1)
    assert generate_ids(model, [prompt], config, vocab_size=VOCABULARY, draft=small) == [expected]
    with pytest.raises(InputError, match="draft: embeds 310 tokens, but the text may have 330"):
        generate_ids(model, [prompt], config, draft=small)


def test_a_stop_string_removes_later_tokens_from_the_cache(model: Decoder, tokenizer: Tokenizer) -> None:
    prompt, config = tokenizer.encode("The sea"), GenerationConfig(max_new_tokens=40)
    [text] = generate(model, tokenizer, "The sea", max_new_tokens=40)
    for place in (6, 11, 17):
        stop = text[place : place + 2]
        plain = make_batch(model, [prompt], config)
        shown = list(text_deltas(plain, tokenizer, [stop]))
        batch = make_batch(model, [prompt], config, {0: Prompter(finish(make_batch(model, [prompt], config)).ids[0])})
        assert list(text_deltas(batch, tokenizer, [stop])) == shown
        assert (batch.ids, batch.finish_reasons) == (plain.ids, plain.finish_reasons)
        assert batch.forward_passes < plain.forward_passes
        assert batch.cache.lengths[0] <= len(batch.ids[0])


@pytest.mark.parametrize("raw", [False, True])
def test_a_conversation_is_the_same_and_reuses_its_cache(
    make: Callable[..., Decoder], tokenizer: Tokenizer, draft: Any, raw: bool
) -> None:
    model = make("gpt-neox", context=256)
    config = GenerationConfig(max_new_tokens=25, temperature=0.4, seed=1, stop=("q", "th"))
    plain, guessing = (Session(model, tokenizer, config, raw, guesser) for guesser in (None, draft))
    for line in ("the sea, the sea", "April", "", "day", "The clock and the clock"):
        assert "".join(guessing.say(line)) == "".join(plain.say(line))
        assert guessing.messages == plain.messages
        assert guessing._cached_ids == guessing._text[: len(guessing._cached_ids)]
        assert len(guessing._cached_ids) >= len(plain._cached_ids)


def naive_lookup(ids: Sequence[int], count: int) -> list[int]:
    """Search from the end; copy from there, and then from the copy."""
    for length in (3, 2):
        for end in range(len(ids) - 1, length - 1, -1):
            if length <= len(ids) and list(ids[end - length : end]) == list(ids[-length:]):
                text = list(ids)
                for place in range(end, end + count):
                    text.append(text[place])
                return text[len(ids) :]
    return []


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40), st.lists(st.integers(1, 9), min_size=1), st.integers(1, 12)
)
def test_lookup_finds_the_latest_occurrence(text: list[int], steps: list[int], count: int) -> None:
    proposer, length = LookupProposer(), 0
    for step in steps:
        length = min(length + step, len(text))
        assert proposer.propose(text[:length], count) == naive_lookup(text[:length], count)


@given(st.lists(st.tuples(st.integers(0, 32), st.integers(1, 32)), min_size=1))
def test_draft_length_stays_in_bounds(history: list[tuple[int, int]]) -> None:
    length = DraftLength()
    for right, proposed in history:
        pauses = 0
        while not (count := length.next()):
            pauses += 1
        assert 1 <= count <= 32
        assert pauses <= 15
        length.update(min(proposed, count), min(right, proposed, count))


def test_draft_length_grows_with_success() -> None:
    length, seen = DraftLength(), []
    for _ in range(5):
        seen.append(length.next())
        length.update(seen[-1], seen[-1])
    assert seen == [4, 8, 16, 32, 32]
    length.update(32, 6)
    assert length.next() == 7
    length.update(7, 0)
    assert length.next() == 1
    length.update(1, 0)
    assert [length.next(), length.next()] == [0, 1]


def test_invalid_drafts(make: Callable[..., Decoder], tokenizer: Tokenizer, neo: Decoder) -> None:
    with pytest.raises(InputError, match="draft: must be a model or 'lookup', not 'lookupp'"):
        stream(neo, tokenizer, "a", draft="lookupp")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="draft: embeds 300 tokens, but the text may have 310"):
        generate(neo, tokenizer, "a", draft=make("gpt2", vocab_size=300))
    check_vocabulary(tokenizer, Tokenizer(tokenizer.backend))
    other = train_tokenizer(iter(["Quick brown foxes, quick brown dogs"] * 3), 262)
    with pytest.raises(InputError, match=r"draft: its vocabulary is not the model's \(262 and 310 tokens, .* differ\)"):
        check_vocabulary(tokenizer, other)


def test_proposers_follow_the_protocol() -> None:
    guessers: list[Proposer] = [LookupProposer(), Prompter([])]
    assert all(guessers)


def test_the_command_line(
    make: Callable[..., Decoder],
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neolm", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO("The sea\n"))
        code = 0
        try:
            neolm.cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    for name, family in (("model", "gpt-neo"), ("draft", "gpt2"), ("foreign", "gpt2")):
        save_model(make(family), tmp_path / name)
        words = train_tokenizer(iter(["Quick brown foxes"] * 3), 260) if name == "foreign" else tokenizer
        words.save(tmp_path / name)
    for command in (["generate", tmp_path / "model", "The sea"], ["chat", tmp_path / "model", "--seed", "1"]):
        code, expected, _ = run(*command)
        assert (code, len(expected) > 20) == (0, True)
        for draft in ("lookup", tmp_path / "draft"):
            assert run(*command, "--draft", draft)[:2] == (0, expected)
        code, _, said = run(*command, "--draft", tmp_path / "foreign")
        assert code == 2
        assert said.startswith("neolm: draft: its vocabulary is not the model's (260 and 310 tokens, ")
        assert run(*command, "--draft", tmp_path / "nowhere")[0] == 2
