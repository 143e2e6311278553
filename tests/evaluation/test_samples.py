"""Prompts from held-out text, and their continuations."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.samples import first_words, samples
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    id: str
    text: str
    parent: str = ""


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (
            "The clock strikes thirteen while the sea is calm. " * 3,
            "The clock strikes thirteen while the sea is calm. The clock",
        ),
        ("\n\n  A title\n\nand a text", "A title"),
        ("one two three", "one two"),
        ("海" * 200, "海" * 60),
        ("word", "wo"),
        ("a", "a"),
        (" \n", ""),
    ],
)
def test_a_prompt_ends_at_the_end_of_a_word(text: str, prompt: str) -> None:
    assert first_words(text) == prompt


def test_prompts_come_from_different_documents_with_text(neo: Decoder, tokenizer: Tokenizer) -> None:
    parts = [Text(f"book {n}", f"the sea and the clock {n}", "book") for n in range(20)]
    others = [Text("a", "the water of April and the sea"), Text("b", "cold day in April and more")]
    others += [Text(f"empty {n}", " ") for n in range(20)]
    found = samples(neo, tokenizer, EvaluateConfig(sample_tokens=4), [*parts, *others])
    assert {row["document"] for row in found} == {"book 0", "a", "b"}
    assert samples(neo, tokenizer, EvaluateConfig(sample_tokens=4), [*others, *parts]) == found
    assert samples(neo, tokenizer, EvaluateConfig(sample_tokens=4, seed=3), [*parts, *others]) != found


def test_a_prompt_without_spaces_fits_half_of_the_context(neo: Decoder, tokenizer: Tokenizer) -> None:
    found = samples(neo, tokenizer, EvaluateConfig(sample_tokens=4), [Text("a", "海" * 200)])
    limit = neo.config.max_position_embeddings // 2
    assert limit - 3 <= len(tokenizer.encode(found[0]["prompt"])) <= limit


def test_given_prompts_are_used_as_they_are(
    neo: Decoder, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(prompts=("The ", "the sea " * 60), sample_tokens=4)
    found = samples(neo, tokenizer, config, [])
    assert [row["prompt"] for row in found] == ["The "]  # the other does not fit the context
    assert set(found[0]) == {"prompt", "sampled", "greedy"}
    assert "prompts that are empty or longer than 32 tokens are left out: 1\n" in capsys.readouterr().err
