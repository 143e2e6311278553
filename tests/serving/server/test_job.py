"""What a job reserves before it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from neolm.generation.config import GenerationConfig
from neolm.serving.server.job import Job


def test_no_more_tokens_are_reserved_than_the_context_holds() -> None:
    model: Any = SimpleNamespace(context=96)
    prompts = [[1] * 90, [1] * 10, []]
    job = Job(model, prompts, GenerationConfig(max_new_tokens=50), samples=2)
    assert job.prompt_tokens == 90 + 10 + 1  # an empty prompt is replaced by the end-of-text token
    # A text may be a token longer than the context.
    assert job.max_new_tokens == 2 * (7 + 50 + 50)
