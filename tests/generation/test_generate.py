"""`generate` and `stream`: exact, independent of the batch, within the context, with clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_decoder
from torch import nn

from neolm.core.errors import InputError
from neolm.generation import batch as batch_module
from neolm.generation.batch import Batch, batches, generate_ids
from neolm.generation.config import GenerationConfig
from neolm.generation.generate import generate, stream
from neolm.generation.kernel_runner import KernelRunner
from neolm.generation.kv_cache import BatchCache
from neolm.generation.sampling import prompt_generators
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

PROMPTS = ["The sea", "", "It was a bright cold day in April, and", "def main(): return", "é🙂"]


def greedy_without_cache(model: Decoder, ids: list[int], count: int, size: int) -> list[int]:
    context, ids, start = model.config.max_position_embeddings, list(ids), len(ids)
    with torch.inference_mode():
        while len(ids) < start + count and len(ids) <= context:
            ids.append(int(model(torch.tensor([ids]))[0, -1, :size].argmax()))
    return ids[start:]


def test_greedy_equals_the_full_forward_pass_to_the_context_limit(model: Decoder, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode(text) or [tokenizer.eos_token_id] for text in PROMPTS]
    got = generate_ids(model, prompts, GenerationConfig(max_new_tokens=99), vocab_size=310)
    for ids, prompt in zip(got, prompts, strict=True):
        assert ids == greedy_without_cache(model, prompt, 99, 310)
        assert len(prompt) + len(ids) == 65  # the last token is not fed back
        assert len(set(ids)) > 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 4},
        {"repetition_penalty": 1.5},
        {"temperature": 1.2, "repetition_penalty": 1.3, "seed": 5, "ignore_eos": True, "stop": ["e"]},
    ],
)
def test_a_prompt_has_the_same_continuation_in_a_batch_as_alone(
    model: Decoder, tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=30, **settings)
    assert together == [generate(model, tokenizer, text, max_new_tokens=30, **settings)[0] for text in PROMPTS]
    assert together[::-1] == generate(model, tokenizer, PROMPTS[::-1], max_new_tokens=30, **settings)


def test_many_prompts_are_decoded_in_several_batches(
    neo: Decoder, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PROMPTS * 3
    expected = generate(neo, tokenizer, prompts, temperature=1.0, seed=1, max_new_tokens=10)
    monkeypatch.setattr(batch_module, "MAX_BATCH_TOKENS", 100)
    config = GenerationConfig(max_new_tokens=10)
    assert len(list(batches(neo, tokenizer.encode_batch(prompts), config, 0))) > 3
    assert generate(neo, tokenizer, prompts, temperature=1.0, seed=1, max_new_tokens=10) == expected


def test_seeds_and_repeated_prompts(neo: Decoder, tokenizer: Tokenizer) -> None:
    def sample(prompts: list[str], seed: int | None) -> list[str]:
        return generate(neo, tokenizer, prompts, temperature=1.5, seed=seed, max_new_tokens=20)

    first = sample(["The sea", "The sea", "The clock"], 7)
    assert first == sample(["The sea", "The sea", "The clock"], 7)
    assert first[0] != first[1]
    assert first[0] == sample(["The sea"], 7)[0] != sample(["The sea"], 8)[0]
    assert sample(["The sea"], None) != sample(["The sea"], None)


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0, "seed": 11}, {"stop": ("the", "\n", "a")}])
def test_streaming_gives_the_same_text(model: Decoder, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        parts = list(stream(model, tokenizer, prompt, GenerationConfig(max_new_tokens=40, **settings)))
        assert "".join(parts) == generate(model, tokenizer, prompt, max_new_tokens=40, **settings)[0]
        assert all(parts)


class Scripted(nn.Module):
    """Fake model that generates `script`; the position of a token selects the next one."""

    def __init__(self, model: Decoder, script: list[int], prompt: int = 1) -> None:
        super().__init__()
        self.config, self.embedding, self.script, self.prompt = model.config, model.embedding, script, prompt
        self.calls = 0
        self.device, self.dtype, self.quantized = torch.device("cpu"), torch.float32, None

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, **_: object) -> torch.Tensor:
        self.calls += 1
        return positions.expand(ids.shape).unsqueeze(-1)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        wanted = [self.script[int(position) - self.prompt + 1] for position in hidden.flatten()]
        return nn.functional.one_hot(torch.tensor(wanted), self.config.vocab_size).float()


def scripted(neo: Decoder, tokenizer: Tokenizer, text: str, *more: int) -> Any:
    return Scripted(neo, [*tokenizer.encode(text), *more])


def test_characters_of_several_tokens_are_yielded_whole(neo: Decoder, tokenizer: Tokenizer) -> None:
    model = scripted(neo, tokenizer, "né 🙂!", tokenizer.eos_token_id)
    assert len(tokenizer.encode("🙂")) == 4
    assert list(stream(model, tokenizer, "a")) == ["n", "é", " ", "🙂", "!"]


def test_a_stop_string_over_token_boundaries(neo: Decoder, tokenizer: Tokenizer) -> None:
    model = scripted(neo, tokenizer, "the water, zq! the day", tokenizer.eos_token_id)
    assert generate(model, tokenizer, "a", stop=["zq!"]) == ["the water, "]
    assert model.calls == len(tokenizer.encode("the water, zq!"))  # no further step
    assert generate(model, tokenizer, "a", stop="q!") == ["the water, z"]
    assert "".join(stream(model, tokenizer, "a", GenerationConfig(stop=("r, z",)))) == "the wate"
    assert generate(model, tokenizer, "a", stop=["never", "!?"]) == ["the water, zq! the day"]


def test_the_end_of_text_token_ends_a_text_and_is_not_shown(neo: Decoder, tokenizer: Tokenizer) -> None:
    model = scripted(neo, tokenizer, "sea", tokenizer.eos_token_id, *tokenizer.encode(" day" * 40))
    assert generate(model, tokenizer, "a") == ["sea"]
    ignored = generate(model, tokenizer, "a", ignore_eos=True, max_new_tokens=30)[0]
    assert ignored.startswith("sea day")
    assert "endoftext" not in ignored


def test_finish_reasons(neo: Decoder, tokenizer: Tokenizer) -> None:
    eos = tokenizer.eos_token_id
    script = [*tokenizer.encode("sea"), eos, *[5] * 80]

    def ends(eos_token_id: int | None, count: int) -> dict[int, str]:
        model: Any = Scripted(neo, script)
        config = GenerationConfig(max_new_tokens=count)
        batch = Batch(model, {7: [5]}, config, {7: prompt_generators([[5]], 0)[0]}, eos_token_id)
        while batch.running:
            batch.step()
        return batch.finish_reasons  # type: ignore[return-value]

    assert ends(eos, 60) == {7: "end of text"}
    assert ends(None, 60) == {7: "length"}
    assert ends(None, 64) == {7: "length"}
    assert ends(None, 65) == {7: "context"}


def test_ids_beyond_the_tokenizer_are_never_sampled(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    model = make("gpt-neox", vocab_size=2000)
    config = GenerationConfig(max_new_tokens=60, temperature=50.0, seed=0)
    [ids] = generate_ids(model, [[1, 2]], config, vocab_size=tokenizer.size)
    assert max(ids) < tokenizer.size
    [free] = generate_ids(model, [[1, 2]], config)
    assert max(free) >= tokenizer.size


def test_the_repetition_penalty_counts_prompt_and_continuation(neo: Decoder) -> None:
    prompt, ids = [3, 4, 5], [3, 4, 5]
    with torch.inference_mode():
        for _ in range(20):
            logits = neo(torch.tensor([ids]))[0, -1, :310]
            for token in set(ids):
                logits[token] *= 1.7 if logits[token] < 0 else 1 / 1.7
            ids.append(int(logits.argmax()))
    config = GenerationConfig(max_new_tokens=20, repetition_penalty=1.7)
    assert generate_ids(neo, [prompt], config, vocab_size=310) == [ids[3:]]


def test_presence_frequency_and_bias(neo: Decoder) -> None:
    """Greedily: logits - count x frequency - (count > 0) x presence + bias, counted in the continuation."""
    config = GenerationConfig(
        max_new_tokens=20, presence_penalty=0.7, frequency_penalty=0.4, logit_bias={7: 2.5, 9: -100.0}
    )
    prompt, ids = [3, 4, 5, 7], [3, 4, 5, 7]
    with torch.inference_mode():
        for _ in range(20):
            logits = neo(torch.tensor([ids]))[0, -1, :310]
            counts = torch.bincount(torch.tensor(ids[4:], dtype=torch.int64), minlength=310)
            logits = logits - counts * 0.4 - (counts > 0) * 0.7
            logits[7] += 2.5
            logits[9] -= 100
            ids.append(int(logits.argmax()))
    for draft in (None, "lookup", neo):
        assert generate_ids(neo, [prompt], config, vocab_size=310, draft=draft) == [ids[4:]]
    with pytest.raises(InputError, match=r"^logit_bias: token 400 is not one of 0 to 309$"):
        generate_ids(neo, [prompt], GenerationConfig(logit_bias={400: 1.0}), vocab_size=310)


def test_prompts_around_the_context(model: Decoder) -> None:
    one = [1, 2, 3, 4] * 16
    for length, count in ((62, 3), (63, 2), (64, 1)):
        [ids] = generate_ids(model, [one[:length]], GenerationConfig(max_new_tokens=50))
        assert len(ids) == count
    with pytest.raises(InputError, match=r"^the prompt is 65 tokens, the model's context is 64: shorten it$"):
        generate_ids(model, [[*one, 5]], GenerationConfig())
    with pytest.raises(InputError, match=r"^prompt 2 of 2 is 65 tokens"):
        generate_ids(model, [[1], [*one, 5]], GenerationConfig())


def test_no_prompts_and_no_new_tokens(neo: Decoder, tokenizer: Tokenizer) -> None:
    assert generate(neo, tokenizer, [], max_new_tokens=5) == []
    assert generate(neo, tokenizer, ["a", "b"], max_new_tokens=0) == ["", ""]
    assert list(stream(neo, tokenizer, "a", GenerationConfig(max_new_tokens=0))) == []


def test_an_empty_prompt_starts_from_the_end_of_text(neo: Decoder, tokenizer: Tokenizer) -> None:
    config, eos = GenerationConfig(max_new_tokens=9), tokenizer.eos_token_id
    assert generate_ids(neo, [[]], config, eos) == generate_ids(neo, [[eos]], config, eos)
    with pytest.raises(InputError, match="the prompt is empty"):
        generate_ids(neo, [[]], config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature: must be greater than or equal to 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p: must be greater than 0"),
        ({"top_p": 1.01}, "top_p: must be less than or equal to 1"),
        ({"top_k": 0}, "top_k: must be greater than or equal to 1"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 1.5}, "max_new_tokens"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop": [""]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
    ],
)
def test_bad_settings(neo: Decoder, tokenizer: Tokenizer, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(neo, tokenizer, "a", **settings)


def test_a_tokenizer_or_ids_that_do_not_belong_to_the_model(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="310 tokens, but the model embeds 300"):
        generate(make("gpt2", vocab_size=300), tokenizer, "a")
    with pytest.raises(InputError, match=r"token id 330 at position 0, outside the model's vocabulary \(0 to 329\)"):
        generate_ids(make("gpt2"), [[330]], GenerationConfig())
    with pytest.raises(InputError, match="prompt 1 of 1 is not text but list"):
        generate(make("gpt2"), tokenizer, [[1, 2]])  # type: ignore[list-item]


def test_the_model_keeps_its_mode(make: Callable[..., Decoder], tokenizer: Tokenizer) -> None:
    model = make("gpt2", residual_dropout=0.5, embedding_dropout=0.5, attention_dropout=0.5)
    calm = generate(model, tokenizer, "The sea")
    model.train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    assert generate(model, tokenizer, "The sea") == calm  # without dropout
    unfinished = stream(model, tokenizer, "The sea")
    next(unfinished)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert model(torch.tensor([[1]])).requires_grad
    model.eval()


def test_an_interrupt_in_the_middle_of_a_stream(
    make: Callable[..., Decoder], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("gpt-neo", seed=9).train()
    answer = stream(model, tokenizer, "The sea")
    next(answer)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KernelRunner, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(answer)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    assert list(answer) == []
    assert generate(model, tokenizer, "The sea")[0]


def test_settings_are_keywords_or_one_object(neo: Decoder, tokenizer: Tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=8, temperature=1.0, seed=2, stop=("zq",))
    [expected] = generate(neo, tokenizer, "The sea", config)
    settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "seed": 2, "stop": "zq"}
    assert generate(neo, tokenizer, "The sea", **settings) == [expected]
    assert "".join(stream(neo, tokenizer, "The sea", **settings)) == expected
    with pytest.raises(InputError, match=r"^config: give a GenerationConfig or keywords such as max_new_tokens=20"):
        generate(neo, tokenizer, "The sea", 8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^temprature: unknown key; did you mean 'temperature'\?$"):
        stream(neo, tokenizer, "The sea", temprature=1.0)


def test_a_config_shows_what_differs_from_the_defaults() -> None:
    assert repr(GenerationConfig()) == "GenerationConfig()"
    assert repr(GenerationConfig(top_k=5, stop="a")) == "GenerationConfig(top_k=5, stop=('a',))"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1, 2, 330]], r"^the prompt has the token id 330 at position 2, outside the model's vocabulary \(0 to 329\)"),
        ([[1], [4, -1]], "^prompt 2 of 2 has the token id -1 at position 1, "),
        ([[1, 2.0]], "^the prompt has 2.0 at position 1, which is not a token id$"),
        ([["1"]], "^the prompt has '1' at position 0, which is not a token id$"),
        ([1, 2], r"^prompt 1 of 2 is not a list of token ids but int \(1\)$"),
        (["sea"], "^the prompt is not a list of token ids but str"),
    ],
)
def test_bad_token_ids_are_named_with_their_position(neo: Decoder, prompts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate_ids(neo, prompts, GenerationConfig())


def test_token_ids_may_be_tensors_and_arrays(neo: Decoder) -> None:
    config = GenerationConfig(max_new_tokens=3)
    expected = generate_ids(neo, [[3, 4, 5]], config)
    assert generate_ids(neo, torch.tensor([[3, 4, 5]]), config) == expected  # type: ignore[arg-type]
    assert generate_ids(neo, np.array([[3, 4, 5]], np.uint16), config) == expected  # type: ignore[arg-type]


def test_a_cache_that_does_not_fit_into_memory_is_one_line() -> None:
    model = tiny_decoder("gpt-neox", 2**24)
    with pytest.raises(InputError, match=r"KV cache for 281,474,976,710,656 tokens .*16,777,216 tokens"):
        BatchCache(model, 2**24, 2**24)
