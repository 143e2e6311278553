"""Continuations that the model writes: sampled and greedy, with a fixed seed, of given prompts or of held-out text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from neolm.core.progress import say
from neolm.evaluation.baselines import spread_sample
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.documents import first_parts
from neolm.evaluation.measurement import TextDocument
from neolm.generation.generate import generate
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

HELD_OUT_PROMPTS = 4
MAX_PROMPT_CHARACTERS = 60


def samples(
    model: Decoder, tokenizer: Tokenizer, config: EvaluateConfig, held_out: Iterable[TextDocument]
) -> list[dict[str, str]]:
    """Return `prompt`, `sampled` and `greedy` for each of `config.prompts`, or for first words of held-out documents.

    Prompts from held-out text have the id of their `document` too. Given prompts that are empty or longer than the
    context are left out, and their number is printed.
    """
    context = model.config.max_position_embeddings
    if config.prompts is None:
        chosen = spread_sample(
            first_parts(held_out), lambda _: 1, HELD_OUT_PROMPTS, lambda d: d.id.encode(), config.seed
        )
        prompts = [_shortened(first_words(document.text), tokenizer, context // 2) for document in chosen]
        rows = [{"prompt": text, "document": document.id} for text, document in zip(prompts, chosen, strict=True)]
    else:
        rows = [{"prompt": prompt} for prompt in config.prompts]
    used = [row for row in rows if row["prompt"] and len(tokenizer.encode(row["prompt"])) <= context]
    if len(used) < len(rows):
        say(f"evaluation: prompts that are empty or longer than {context} tokens are left out: {len(rows) - len(used)}")
    prompts = [row["prompt"] for row in used]
    sampled = generate(
        model, tokenizer, prompts, max_new_tokens=config.sample_tokens, temperature=config.temperature, seed=config.seed
    )
    greedy = generate(model, tokenizer, prompts, max_new_tokens=config.sample_tokens)
    written = zip(used, sampled, greedy, strict=True)
    return [row | {"sampled": drawn, "greedy": likeliest} for row, drawn, likeliest in written]


def first_words(text: str) -> str:
    """Return the first words of a text, up to 60 characters and half of the text, without white space at the end.

    White space at the end would be a separate token, which is rare in training: tokens usually begin with a space.
    A single word longer than the limit, as in scripts without spaces, is cut.
    """
    text = text.strip()
    limit = min(MAX_PROMPT_CHARACTERS, (len(text) + 1) // 2)
    found = re.match(rf".{{1,{limit}}}(?!\S)", text, re.DOTALL) if text else None
    return found.group().rstrip() if found else text[:limit]


def _shortened(prompt: str, tokenizer: Tokenizer, tokens: int) -> str:
    """The prompt without its last words, so that it has at most `tokens` tokens; a single word is cut."""
    while len(tokenizer.encode(prompt)) > tokens:
        words = prompt.rsplit(maxsplit=1)
        prompt = words[0] if len(words) > 1 else prompt[:-1]
    return prompt
