"""The engine gives each request the tokens that it gets alone, frees all memory, and lets no request starve."""

from __future__ import annotations

import copy
import functools
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import quantize

from neolm.core.errors import InputError, NonFiniteError
from neolm.generation.batch import generate_ids
from neolm.generation.config import GenerationConfig
from neolm.generation.kernel_runner import KernelRunner
from neolm.generation.kv_cache import block_bytes, kv_cache_dtype
from neolm.generation.model_runner import TorchRunner
from neolm.models.decoder import Decoder
from neolm.serving import engine as engines
from neolm.serving import scheduler as scheduling
from neolm.serving.engine import Engine
from neolm.serving.request import (
    EngineClosedError,
    Event,
    Finished,
    Listener,
    PromptLogprobs,
    QueueFullError,
    Request,
    Token,
)
from neolm.serving.sampler import sample_tokens

SHORT = GenerationConfig(max_new_tokens=12)


def engine_of(model: Decoder, num_blocks: int = 64, **more: Any) -> Engine:
    return Engine(model, memory=num_blocks * block_bytes(model.config, kv_cache_dtype(model)), **more)


class Log(list[Event]):
    """A callback that records all events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def tokens(self) -> list[int]:
        return [event.id for event in self if isinstance(event, Token)]

    @property
    def reason(self) -> str | None:
        return self[-1].reason if self and isinstance(self[-1], Finished) else None

    @property
    def error(self) -> str:
        assert isinstance(self[-1], Finished)
        return str(self[-1].error)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(310), k=length)


def finish(engine: Engine) -> None:
    while engine.step():
        pass


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_each_request_gets_the_tokens_that_it_gets_alone(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """For any arrivals, lengths, settings, cancellations, chunk size and memory."""
    family = data.draw(st.sampled_from(["gpt2", "gpt-neo", "gpt-neox"]))
    model = make(family)
    engine = engine_of(
        model,
        num_blocks=data.draw(st.integers(7, 30)),
        max_running=data.draw(st.integers(1, 6)),
        chunk_size=data.draw(st.sampled_from([16, 32, 64])),
        eos_token_id=5,
        vocab_size=310,
        strict=data.draw(st.booleans()),
    )
    engine.model_runner = data.draw(
        st.sampled_from([engine.model_runner, KernelRunner(model, max_decode_tokens=8), TorchRunner(model)])
    )
    shared = prompt_of(40, seed=99)
    asked: list[tuple[list[int], GenerationConfig, Log, Request]] = []
    for number in range(data.draw(st.integers(1, 8))):
        begin = data.draw(st.sampled_from([0, 20, 40]))
        prompt = shared[:begin] + prompt_of(data.draw(st.integers(1, 50)), seed=number)
        config = GenerationConfig(
            max_new_tokens=data.draw(st.integers(0, 50)),
            temperature=data.draw(st.sampled_from([0.0, 0.9])),
            top_k=data.draw(st.sampled_from([None, 20])),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.3])),
            ignore_eos=data.draw(st.booleans()),
            seed=number,
        )
        log = Log()
        asked.append((prompt, config, log, engine.submit(prompt, config, log)))
        for _ in range(data.draw(st.integers(0, 3))):
            engine.step()
        if data.draw(st.integers(0, 5)) == 0:
            asked[-1][3].cancel()
    finish(engine)
    for prompt, config, log, request in asked:
        [alone] = generate_ids(model, [prompt], config, 5, 310)
        assert log.reason is not None
        if request.cancelled and log.reason == "cancelled":
            assert log.tokens == alone[: len(log.tokens)]
        else:
            assert log.tokens == alone
    blocks = engine.scheduler.block_manager
    assert (blocks.num_free, blocks.num_reserved) == (blocks.num_blocks, 0)


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_strict_gives_the_same_bits_under_any_load(
    make: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    model = copy.deepcopy(make("gpt-neo", hidden_size=64, context=160))
    model = quantize(model, form) if form.startswith("int") else model.bfloat16()
    seen: dict[int, list[torch.Tensor]] = {}

    def serve(prompts: dict[int, list[int]], steps_between: int) -> dict[int, list[int]]:
        engine = engine_of(model, num_blocks=100, chunk_size=32, strict=True)
        # Whole chunks are computed by torch, short ones by the kernels, whose bits differ.
        engine.model_runner = KernelRunner(model, max_decode_tokens=20)

        def watch(logits: torch.Tensor, requests: list[Request]) -> list[Token | NonFiniteError]:
            for row, request in zip(logits, requests, strict=True):
                seen.setdefault(names[request], []).append(row.clone())
            return sample_tokens(logits, requests)

        monkeypatch.setattr(engines, "sample_tokens", watch)
        names: dict[Request, int] = {}
        logs = {}
        for name, prompt in prompts.items():
            logs[name] = Log()
            names[engine.submit(prompt, GenerationConfig(max_new_tokens=20), logs[name])] = name
            for _ in range(steps_between):
                engine.step()
        finish(engine)
        return {name: log.tokens for name, log in logs.items()}

    base = prompt_of(100, seed=1)
    prompts = {n: base[: 30 + 17 * (n % 5)] + prompt_of(5 + n, seed=n) for n in range(8)}
    # The next turn of a conversation, whose last blocks the model itself has generated.
    prompts[8] = prompts[3] + serve({3: prompts[3]}, 0)[3] + prompt_of(4, seed=3)
    seen.clear()
    crowded = serve(prompts, 6)
    together, seen = seen, {}
    for name, prompt in prompts.items():
        assert serve({name: prompt}, 0)[name] == crowded[name]
        assert all(torch.equal(a, b) for a, b in zip(seen[name], together[name], strict=True))


def test_a_cached_prefix_is_not_computed_again(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(model)
    read: list[int] = []
    logits = engine._logits
    monkeypatch.setattr(engine, "_logits", lambda spans: (read.extend(len(s.ids) for s in spans), logits(spans))[1])
    base = prompt_of(50)
    first, second = Log(), Log()
    engine.submit(base, SHORT, first)
    finish(engine)
    assert read[0] == 50
    read.clear()
    engine.submit(base + first.tokens + [7], SHORT, second)  # the next turn of a conversation
    finish(engine)
    assert read[0] == 63 - 48  # three full blocks of 16 were cached, one of them generated


def test_a_cached_prefix_is_found_with_its_salt_only(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(model)
    read: list[int] = []
    logits = engine._logits
    monkeypatch.setattr(engine, "_logits", lambda spans: (read.append(len(spans[0].ids)), logits(spans))[1])
    logs = []
    for salt, computed in [("a", 50), ("b", 50), ("a", 2), ("", 50), ("b", 2), ("", 2)]:
        read.clear()
        logs.append(Log())
        engine.submit(prompt_of(50), SHORT, logs[-1], cache_salt=salt)
        finish(engine)
        assert read[0] == computed, salt
        assert logs[-1].tokens == logs[0].tokens


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_siblings_share_a_prompt_that_is_computed_once(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """Each gets the tokens that it gets alone; the scores of the prompt arrive before any token."""
    model, strict = make(data.draw(st.sampled_from(["gpt2", "gpt-neo"]))), data.draw(st.booleans())
    engine = engine_of(model, num_blocks=data.draw(st.integers(8, 64)), chunk_size=16, strict=strict, vocab_size=310)
    prompt, scored = prompt_of(data.draw(st.integers(1, 80))), data.draw(st.booleans())
    config = GenerationConfig(max_new_tokens=data.draw(st.integers(0, 9)), temperature=0.9, seed=3)
    read: list[int] = []
    logits = engine._logits
    engine._logits = lambda spans: (read.extend(len(s.ids) for s in spans), logits(spans))[1]  # type: ignore[method-assign]
    events: list[tuple[int, Event]] = []
    other = Log()
    engine.submit(prompt_of(30, seed=7), SHORT, other)
    first: Request | None = None
    for index in range(data.draw(st.integers(1, 5))):
        deliver = functools.partial(lambda index, event: events.append((index, event)), index)
        request = engine.submit(
            prompt, config, deliver, index, logprobs=0, prompt_logprobs=scored and first is None, sibling=first
        )
        first = first or request
        if data.draw(st.integers(0, 3)) == 0:
            engine.step()
    finish(engine)
    assert len(other) == 13
    count = index + 1
    for index in range(count):
        alone = Log()
        engine.submit(prompt, config, alone, index)
        finish(engine)
        assert [event.id for which, event in events if which == index and isinstance(event, Token)] == alone.tokens
    assert [isinstance(event, PromptLogprobs) for _, event in events].count(True) == scored
    if scored:
        assert isinstance(next(event for which, event in events if which == 0), PromptLogprobs)
        assert events[0][0] == 0


def test_siblings_read_their_prompt_once(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for scored, max_new_tokens, most in [(False, 2, 80 + 15 * 16), (True, 2, 80 + 15 * 16), (True, 0, 80)]:
        engine = engine_of(model, num_blocks=256)
        read: list[int] = []
        logits = engine._logits
        monkeypatch.setattr(engine, "_logits", lambda spans: (read.extend(len(s.ids) for s in spans), logits(spans))[1])  # noqa: B023
        config = GenerationConfig(max_new_tokens=max_new_tokens)
        logs = [Log() for _ in range(16)]
        first = engine.submit(prompt_of(80), config, logs[0], prompt_logprobs=scored)
        for index in range(1, 16):
            engine.submit(prompt_of(80), config, logs[index], index, sibling=first)
        finish(engine)
        assert sum(count for count in read if count > 1) <= most
        assert len({tuple(log.tokens) for log in logs}) == 1
        assert {log.reason for log in logs} == {"length"}


@pytest.mark.parametrize("when", [0, 1, 3])
def test_siblings_of_a_cancelled_request_go_on(model: Decoder, when: int) -> None:
    engine = engine_of(model, num_blocks=8, chunk_size=16)
    logs = [Log() for _ in range(3)]
    first = engine.submit(prompt_of(60), SHORT, logs[0])
    for index in (1, 2):
        engine.submit(prompt_of(60), SHORT, logs[index], index, sibling=first)
    for _ in range(when):
        engine.step()
    first.cancel()
    finish(engine)
    assert [log.reason for log in logs] == ["cancelled", "length", "length"]
    assert logs[1].tokens == logs[2].tokens
    assert engine.scheduler.block_manager.num_reserved == 0


def test_a_short_prompt_does_not_wait_for_a_long_one(make: Callable[..., Decoder]) -> None:
    model = make("gpt2", context=512)
    engine = engine_of(model, num_blocks=80, chunk_size=32)
    long, short = Log(), Log()
    engine.submit(prompt_of(400), SHORT, long)
    engine.step()
    engine.submit(prompt_of(10, seed=2), SHORT, short)
    engine.step()
    engine.step()
    assert short.tokens
    assert not long
    finish(engine)
    assert (len(long.tokens), len(short.tokens)) == (12, 12)


@pytest.mark.parametrize("turns", [1, 2])
def test_a_short_prompt_is_prefilled_in_the_next_step(make: Callable[..., Decoder], turns: int) -> None:
    engine = engine_of(make("gpt2", context=512), num_blocks=80, chunk_size=32)
    long, short = Log(), Log()
    engine.submit(prompt_of(400), SHORT, long)
    for _ in range(turns):
        engine.step()
    engine.submit(prompt_of(10, seed=2), SHORT, short)
    engine.step()
    assert len(short.tokens) == 2  # one from prefill, one from decode
    assert not long


def test_short_prompts_do_not_starve_a_long_one(make: Callable[..., Decoder]) -> None:
    model = make("gpt2", context=512)
    engine = engine_of(model, num_blocks=200, chunk_size=32, max_running=100)
    long = Log()
    engine.submit(prompt_of(320), GenerationConfig(max_new_tokens=1), long)
    for turn in range(24):
        for number in range(4):
            engine.submit(prompt_of(16, seed=100 + 4 * turn + number), GenerationConfig(max_new_tokens=1), Log())
        engine.step()
    assert long.reason == "length"


def test_a_request_that_does_not_fit_is_overtaken_a_few_times(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "MAX_OVERTAKES", 3)
    engine = engine_of(model, num_blocks=8)
    running, large = Log(), Log()
    engine.submit(prompt_of(4, seed=50), GenerationConfig(max_new_tokens=60), running)
    engine.step()
    engine.submit(prompt_of(60, seed=51), GenerationConfig(max_new_tokens=30), large)
    small = [Log() for _ in range(6)]
    for number, log in enumerate(small):
        engine.submit(prompt_of(5, seed=number), GenerationConfig(max_new_tokens=2), log)
    for _ in range(6):
        engine.step()
    assert [log.reason for log in small] == ["length"] * 3 + [None] * 3
    finish(engine)
    assert {log.reason for log in (running, large, *small)} == {"length"}


def test_at_the_context_limit(model: Decoder) -> None:
    engine = engine_of(model)
    for length, tokens in ((95, 2), (96, 1)):
        log = Log()
        engine.submit(prompt_of(length), GenerationConfig(max_new_tokens=50), log)
        finish(engine)
        assert (len(log.tokens), log.reason) == (tokens, "context")
    with pytest.raises(InputError, match="97 tokens, the model's context is 96"):
        engine.submit(prompt_of(97), SHORT, Log())
    with pytest.raises(InputError, match="empty, and this model has no end-of-text"):
        engine.submit([], SHORT, Log())
    none = Log()
    engine.submit([1], GenerationConfig(max_new_tokens=0), none)
    finish(engine)
    assert none == [Finished("length")]


def test_a_context_below_the_models(make: Callable[..., Decoder]) -> None:
    model = make("gpt-neox", context=2**24)
    engine, log = engine_of(model, num_blocks=4, context=50), Log()
    with pytest.raises(InputError, match="51 tokens, the model's context is 50"):
        engine.submit(prompt_of(51), SHORT, Log())
    engine.submit(prompt_of(45), GenerationConfig(max_new_tokens=20), log)
    finish(engine)
    assert (len(log.tokens), log.reason) == (6, "context")
    with pytest.raises(InputError, match=r"hold 64 tokens of this model, less than its context"):
        engine_of(model, num_blocks=4, context=65)
    assert engine_of(make("gpt-neox"), context=1000).context == 96


def test_samples_of_one_prompt_differ_and_are_reproducible(model: Decoder) -> None:
    config = GenerationConfig(max_new_tokens=8, temperature=1.0, seed=3)
    runs = []
    for _ in range(2):
        engine = engine_of(model)
        logs = [Log() for _ in range(3)]
        for index, log in enumerate(logs):
            engine.submit([1, 2, 3], config, log, index)
        finish(engine)
        runs.append([log.tokens for log in logs])
    assert runs[0] == runs[1] == generate_ids(model, [[1, 2, 3]] * 3, config)
    assert len({tuple(tokens) for tokens in runs[0]}) == 3


def test_weights_that_are_not_finite_fail_requests_and_not_the_engine(make: Callable[..., Decoder]) -> None:
    model = copy.deepcopy(make("gpt-neo"))
    good = model.norm.weight.detach().clone()
    engine = engine_of(model)
    engine.model_runner = TorchRunner(model)  # sees weights as they are now
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    broken, fine = Log(), Log()
    engine.submit([1, 2], SHORT, broken)
    finish(engine)
    assert broken.reason == "error"
    assert "not finite" in broken.error
    with torch.no_grad():
        model.norm.weight.copy_(good)
    engine.submit([1, 2, 3], SHORT, fine)
    finish(engine)
    assert fine.reason == "length"
    assert engine.scheduler.block_manager.num_free == engine.scheduler.block_manager.num_blocks


def test_a_callback_that_raises_cancels_its_request_only(model: Decoder) -> None:
    engine = engine_of(model)
    fine = Log()

    def broken(event: Event) -> None:
        raise ConnectionError("gone")

    engine.submit([1, 2], GenerationConfig(max_new_tokens=40), broken)
    engine.submit([3, 4], SHORT, fine)
    finish(engine)
    assert fine.tokens == generate_ids(model, [[3, 4]], SHORT)[0]
    assert engine.scheduler.block_manager.num_free == engine.scheduler.block_manager.num_blocks


def test_too_little_memory_and_a_full_queue_are_refused(model: Decoder) -> None:
    with pytest.raises(InputError, match=r"hold 80 tokens of this model, less than its context; give it at least"):
        engine_of(model, num_blocks=5)
    engine = engine_of(model, max_waiting=2)
    for _ in range(2):
        engine.submit([1], SHORT, Log())
    with pytest.raises(QueueFullError, match="2 requests are waiting already"):
        engine.submit([1], SHORT, Log())


def test_many_clients_of_an_engine_in_a_thread(model: Decoder) -> None:
    prompts = [prompt_of(10 + n, seed=n) for n in range(12)]
    answers: dict[int, list[int]] = {}
    with engine_of(model, num_blocks=40) as engine:

        def ask(number: int) -> None:
            listener = Listener()
            engine.submit(prompts[number], SHORT, listener)
            answers[number] = list(listener)

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        left = Listener()
        cancelled = threading.Event()

        def deliver(event: Event) -> None:
            left(event)
            assert cancelled.wait(60)  # the engine cannot finish before the cancellation

        request = engine.submit(prompts[0], GenerationConfig(max_new_tokens=80), deliver)
        events = iter(left)
        next(events)
        request.cancel()
        cancelled.set()
        assert len(list(events)) < 79
        assert left.finished == Finished("cancelled")
    assert [answers[n] for n in range(12)] == generate_ids(model, prompts, SHORT)
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit([1], SHORT, Log())


def test_close_cancels_or_completes_running_requests(model: Decoder) -> None:
    for gently in (True, False):
        engine = engine_of(model).start()
        listener = Listener()
        engine.submit([1, 2], GenerationConfig(max_new_tokens=60), listener)
        engine.close(finish=gently)
        tokens = list(listener)
        assert (len(tokens) == 60) is gently
        assert listener.finished == Finished("length" if gently else "cancelled")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failing_engine_finishes_all_requests_with_the_error(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(model)

    def fail(spans: object) -> None:
        raise RuntimeError("no such block")

    monkeypatch.setattr(engine, "_logits", fail)
    listener = Listener()
    engine.start()
    engine.submit([1, 2], SHORT, listener)
    assert list(listener) == []
    assert listener.finished is not None
    assert str(listener.finished.error) == "the engine failed: no such block"
    with pytest.raises(EngineClosedError, match="no such block"):
        engine.submit([1], SHORT, Log())
    engine.close()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_logprobs_are_those_of_the_forward_pass(make: Callable[..., Decoder], data: st.DataObject) -> None:
    """Of the prompt and its continuation, with alternatives, beside other requests and with cached prefixes."""
    family = data.draw(st.sampled_from(["gpt2", "gpt-neo", "gpt-neox"]))
    model, strict = make(family), data.draw(st.booleans())
    engine = engine_of(model, chunk_size=data.draw(st.sampled_from([16, 64])), vocab_size=310, strict=strict)
    ids = prompt_of(data.draw(st.integers(1, 90)), seed=data.draw(st.integers(0, 3)))
    count, more = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 5))
    others = [Log() for _ in range(data.draw(st.integers(0, 2)))]
    for other in others:
        engine.submit(ids, SHORT, other)
        engine.step()
    log = Log()
    config = GenerationConfig(max_new_tokens=more, temperature=data.draw(st.sampled_from([0.0, 1.0])), seed=1)
    engine.submit(ids, config, log, logprobs=count, prompt_logprobs=True)
    finish(engine)
    with torch.inference_mode():
        expected = model(torch.tensor([ids + log.tokens]))[0, :, :310].log_softmax(-1)
    scored = log[0]
    assert isinstance(scored, PromptLogprobs)
    assert [token.id for token in scored.tokens] == ids
    assert scored.tokens[0] == Token(ids[0])
    written = [event for event in log if isinstance(event, Token)]
    assert len(written) == more
    for row, token in zip(expected, [*scored.tokens[1:], *written], strict=False):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        likeliest = row.topk(count).values.tolist() if count else []
        assert [logprob for _, logprob in token.alternatives] == pytest.approx(likeliest, abs=1e-4)
        assert all(float(row[other]) == pytest.approx(value, abs=1e-4) for other, value in token.alternatives)
    assert log.reason == "length"
    assert all(other.tokens == others[0].tokens for other in others)


def test_logprobs_of_a_prompt_as_long_as_the_context(make: Callable[..., Decoder]) -> None:
    engine, log = engine_of(make("gpt2")), Log()
    ids = prompt_of(engine.context)
    engine.submit(ids, GenerationConfig(max_new_tokens=0), log, logprobs=0, prompt_logprobs=True)
    finish(engine)
    [scored, ended] = log
    assert isinstance(scored, PromptLogprobs)
    assert len(scored.tokens) == engine.context
    assert ended == Finished("length")


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_penalties_and_bias_match_batch_generation(make: Callable[..., Decoder], data: st.DataObject) -> None:
    model = make(data.draw(st.sampled_from(["gpt2", "gpt-neox"])))
    numbers = st.floats(-2, 2)
    configs = [
        GenerationConfig(
            max_new_tokens=10,
            temperature=data.draw(st.sampled_from([0.0, 1.0])),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.3])),
            presence_penalty=data.draw(numbers),
            frequency_penalty=data.draw(numbers),
            logit_bias=data.draw(st.dictionaries(st.integers(0, 309), st.floats(-100, 100), max_size=3)),
            seed=3,
        )
        for _ in range(3)
    ]
    engine, logs = engine_of(model, vocab_size=310), [Log() for _ in configs]
    for number, (config, log) in enumerate(zip(configs, logs, strict=True)):
        engine.submit(prompt_of(20, seed=number), config, log)
    finish(engine)
    for number, (config, log) in enumerate(zip(configs, logs, strict=True)):
        assert log.tokens == generate_ids(model, [prompt_of(20, seed=number)], config, vocab_size=310)[0]


def test_logprobs_do_not_depend_on_penalties_and_bias(model: Decoder) -> None:
    engine, plain, biased = engine_of(model), Log(), Log()
    engine.submit([1, 2], GenerationConfig(max_new_tokens=1), plain, logprobs=3)
    config = GenerationConfig(max_new_tokens=1, repetition_penalty=1.3, logit_bias={7: 100.0})
    engine.submit([1, 2], config, biased, logprobs=3)
    finish(engine)
    assert isinstance(plain[0], Token)
    assert isinstance(biased[0], Token)
    assert biased.tokens == [7] != plain.tokens
    assert biased[0].alternatives == plain[0].alternatives


def test_a_bias_for_an_unknown_token_is_refused(make: Callable[..., Decoder]) -> None:
    engine = engine_of(make("gpt2"), vocab_size=310)
    with pytest.raises(InputError, match=r"^logit_bias: token 310 is not one of 0 to 309$"):
        engine.submit([1], GenerationConfig(logit_bias={310: 1.0}), Log())


def test_a_row_that_is_not_finite_fails_alone(model: Decoder) -> None:
    configs = [SHORT, GenerationConfig(max_new_tokens=8, repetition_penalty=1e-40), GenerationConfig(max_new_tokens=8)]
    prompts = [[3, 4], [5, 6, 7], [8]]
    listeners = [Listener() for _ in configs]
    with engine_of(model) as engine:
        for prompt, config, listener in zip(prompts, configs, listeners, strict=True):
            engine.submit(prompt, config, listener)
        tokens = [list(listener) for listener in listeners]
    for number in (0, 2):
        assert tokens[number] == generate_ids(model, [prompts[number]], configs[number])[0]
    assert listeners[1].finished is not None
    assert "not finite" in str(listeners[1].finished.error)
