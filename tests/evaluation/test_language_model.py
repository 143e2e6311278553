"""The three requests, against their definitions in lm-evaluation-harness."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neolm.core.errors import InputError
from neolm.evaluation.language_model import DecoderLanguageModel, LanguageModel
from neolm.generation.batch import batches
from neolm.generation.generate import generate
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

PAIRS = [
    ("The sea is", " water"),
    ("The sea is ", "water"),
    ("", "April"),
    ("   ", "April"),
    ("It was a bright cold day in", " April, and the clocks"),
    ("the clock and the water of April " * 9, "thirteen"),
    ("The sea", ""),
    ("Größe", " 🙂 été"),
    ("def mai", "n(): return the"),
]


@pytest.fixture(scope="module")
def language_model(neo: Decoder, tokenizer: Tokenizer) -> DecoderLanguageModel:
    return DecoderLanguageModel(neo, tokenizer, batch_size=4)


def naive(model: Decoder, tokenizer: Tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """The definition, one pair at a time and without padding."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = tokenizer.encode(context)
    after = tokenizer.encode(context + continuation)[len(before) :]
    if not after:
        return 0.0, True
    ids = ((before or [tokenizer.eos_token_id]) + after)[-(model.config.max_position_embeddings + 1) :]
    with torch.inference_mode():
        rows = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)[-len(after) :]
    score = float(rows[torch.arange(len(after)), torch.tensor(after)].sum())
    return score, rows.argmax(-1).tolist() == after


def test_it_is_a_language_model(language_model: DecoderLanguageModel) -> None:
    checked: LanguageModel = language_model
    assert checked.loglikelihood([]) == []
    assert checked.loglikelihood_rolling([]) == []
    assert checked.generate_until([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_loglikelihood_is_the_definition(neo: Decoder, tokenizer: Tokenizer, batch_size: int) -> None:
    answers = DecoderLanguageModel(neo, tokenizer, batch_size).loglikelihood(PAIRS)
    for (context, continuation), (score, greedy) in zip(PAIRS, answers, strict=True):
        expected, expected_greedy = naive(neo, tokenizer, context, continuation)
        assert score == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert greedy == expected_greedy


def test_white_space_at_the_end_of_a_context_moves_to_the_continuation(language_model: DecoderLanguageModel) -> None:
    first, second = language_model.loglikelihood(PAIRS[:2])
    assert first == pytest.approx(second)


def test_the_greedy_continuation_is_recognised(
    neo: Decoder, tokenizer: Tokenizer, language_model: DecoderLanguageModel
) -> None:
    found = 0
    for context in ("The sea is", "It was", "April, and the", "a", "the clock", "the water of"):
        ids = tokenizer.encode(context)
        with torch.inference_mode():
            ids.append(int(neo(torch.tensor([ids]))[0, -1].argmax()))
        continuation = tokenizer.decode(ids[-1:])
        if tokenizer.encode(context + continuation) != ids:
            continue  # this token does not survive the way through text
        [(_, greedy)] = language_model.loglikelihood([(context, continuation)])
        assert greedy
        found += 1
    assert found


def test_a_continuation_beyond_the_context_is_refused(language_model: DecoderLanguageModel) -> None:
    with pytest.raises(InputError, match=r"request 2: .* context is 32"):
        language_model.loglikelihood([PAIRS[0], ("a", "~^" * 40)])


def test_rolling_is_disjoint_windows(
    neo: Decoder, tokenizer: Tokenizer, language_model: DecoderLanguageModel, uniform: Decoder
) -> None:
    text = "~^" * 50  # 100 tokens, a window is 32
    ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
    expected = 0.0
    with torch.inference_mode():
        for end, scored in ((32, 32), (64, 32), (96, 32), (100, 4)):
            part = torch.tensor([ids[end - 32 : end + 1]])
            rows = neo(part[:, :-1])[0].double().log_softmax(-1)
            expected += float(rows.gather(1, part[0, 1:, None])[-scored:].sum())
    found = language_model.loglikelihood_rolling([text, "", "~"])
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[1] == 0
    same = language_model.loglikelihood([("", "~")])[0][0]
    assert found[2] == pytest.approx(same, rel=1e-5)
    [even] = DecoderLanguageModel(uniform, tokenizer).loglikelihood_rolling([text])
    assert even == pytest.approx(-100 * math.log(512), rel=1e-6)


def test_generate_until_equals_generate(
    neo: Decoder, tokenizer: Tokenizer, language_model: DecoderLanguageModel
) -> None:
    settings: dict[str, Any] = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.7}
    answers = language_model.generate_until([("The sea", settings), ("April", {"max_gen_toks": 5}), ("It", settings)])
    assert answers[0::2] == generate(neo, tokenizer, ["The sea", "It"], max_new_tokens=8, stop=["\n"])
    assert answers[1] == generate(neo, tokenizer, ["April"], max_new_tokens=5)[0]
    sampled = {"max_gen_toks": 8, "temperature": 1.0, "seed": 3}
    assert language_model.generate_until([("The sea", sampled)]) == generate(
        neo, tokenizer, ["The sea"], max_new_tokens=8, temperature=1.0, seed=3
    )


def test_a_stop_string_ends_generation(language_model: DecoderLanguageModel) -> None:
    [free] = language_model.generate_until([("The sea", {"max_gen_toks": 20})])
    stop = free[3:5]
    [ended] = language_model.generate_until([("The sea", {"max_gen_toks": 20, "until": stop})])
    assert ended == free[: free.index(stop)]


@pytest.fixture
def prompts_read(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The token ids of the prompts that the model reads."""
    read: list[list[int]] = []

    def spied(model: Decoder, prompts: list[list[int]], *arguments: Any) -> Any:
        read.extend(prompts)
        return batches(model, prompts, *arguments)

    monkeypatch.setattr("neolm.evaluation.language_model.batches", spied)
    return read


@pytest.mark.parametrize("settings", [{}, {"max_gen_toks": 8}, {"max_gen_toks": 10_000}], ids=str)
def test_a_prompt_that_fits_is_read_whole(
    neo: Decoder,
    language_model: DecoderLanguageModel,
    tokenizer: Tokenizer,
    prompts_read: list[list[int]],
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["~^" * 8, "~^" * 15, "~^" * 16]
    answers = language_model.generate_until([(text, settings) for text in texts])
    assert prompts_read == tokenizer.encode_batch(texts)
    said = capsys.readouterr().err
    expected = 2 if settings.get("max_gen_toks") == 8 else 3
    ended = "continuations end before max_gen_toks, because the model's context of 32 tokens is full"
    assert f"evaluation: {expected} of 3 {ended}" in said
    assert "cut" not in said
    assert answers == generate(neo, tokenizer, texts, max_new_tokens=settings.get("max_gen_toks", 256))


def test_the_beginning_of_a_prompt_beyond_the_context_is_cut(
    language_model: DecoderLanguageModel,
    tokenizer: Tokenizer,
    prompts_read: list[list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "~^" * 40
    language_model.generate_until([(long, {"max_gen_toks": 8}), ("~", {"max_gen_toks": 8}), (long, {})])
    ids = tokenizer.encode(long)
    assert sorted(prompts_read, key=len) == [tokenizer.encode("~"), ids[-16:], ids[-24:]]
    said = capsys.readouterr().err
    assert "2 of 3 prompts are longer than the model's context of 32 tokens; their beginnings are cut" in said


def test_cut_contexts_of_likelihoods_are_counted(
    language_model: DecoderLanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model.loglikelihood([("~^" * 15, "~^~"), ("a", "b")])
    assert capsys.readouterr().err == ""
    language_model.loglikelihood([("~^" * 15, "~^~^"), ("a", "b")])
    said = "1 of 2 requests are longer than the model's context of 32 tokens; their beginnings are cut"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("until", ["", [""], None, [], ()])
def test_empty_stop_texts_have_no_effect(language_model: DecoderLanguageModel, until: Any) -> None:
    settings = {"max_gen_toks": 4}
    assert language_model.generate_until([("The sea", settings | {"until": until})]) == language_model.generate_until(
        [("The sea", settings)]
    )


def test_an_unknown_setting_is_refused(language_model: DecoderLanguageModel) -> None:
    with pytest.raises(InputError, match="beams"):
        language_model.generate_until([("a", {"beams": 4})])
