"""Prompts in, continuations out: `generate` for whole texts, `stream` for parts of a text as they come.

Shapes appear one level down, in `neolm.generation.batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from neolm.core.errors import InputError
from neolm.generation.batch import Batch, batches
from neolm.generation.config import GenerationConfig, generation_config
from neolm.generation.speculative import Draft
from neolm.generation.text import TextStream
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer


def generate(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    seed: int | None = None,
    draft: Draft = None,
) -> list[str]:
    """The continuation of each prompt, without the prompt, the stop string or the end-of-text token.

    A prompt gets in a batch what it gets alone with the same seed; a prompt given twice gets two different samples.
    An empty prompt starts a document. A continuation ends at the latest when the model's context is full.

    Args:
        model: A decoder (`neolm.load_model`), on the device where it is to compute.
        tokenizer: Its tokenizer.
        prompts: One prompt or several; one string gives a list of one.
        max_new_tokens: Longest continuation in tokens.
        temperature: 0 takes the likeliest token; above 0 the logits are divided by it and a token is drawn.
        top_k: Draw from the k likeliest tokens only.
        top_p: Draw from the smallest set of likeliest tokens that has this probability.
        repetition_penalty: Above 1 makes tokens that the text already has less likely.
        presence_penalty: Taken from the logits of tokens that the continuation already has.
        frequency_penalty: Taken from the logits of tokens for each time that the continuation already has them.
        logit_bias: Added to the logits of token ids.
        stop: One text or several that end a continuation.
        ignore_eos: Go on after an end-of-text token.
        seed: Fixes the draws; None: different every time.
        draft: Guesses tokens that are then read together, for the same text in fewer steps: a smaller model with the
            same tokenizer, or "lookup", which copies from the text so far.

    Raises:
        InputError: a setting out of range, a prompt longer than the context, or a tokenizer or a draft that is not the
            model's.
    """
    config = generation_config(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=dict(logit_bias or {}),
        stop=stop,
        ignore_eos=ignore_eos,
        seed=seed,
    )
    return continuations(model, tokenizer, [prompts] if isinstance(prompts, str) else prompts, config, draft)


def continuations(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig, draft: Draft = None
) -> list[str]:
    """What `generate` returns, for settings that are already checked."""
    texts: list[list[str]] = [[] for _ in prompts]
    for batch in _text_batches(model, tokenizer, prompts, config, draft):
        for row, piece in text_deltas(batch, tokenizer, config.stop):
            texts[row].append(piece)
    return ["".join(parts) for parts in texts]


def stream(
    model: Decoder, tokenizer: Tokenizer, prompt: str, config: GenerationConfig | None = None, draft: Draft = None
) -> Iterator[str]:
    """What `generate` returns for one prompt, part by part as soon as each is certain.

    Prompt and draft are checked at the call, not at the first piece. The iterator may be left at any time.

    Raises:
        InputError: as `generate`.
    """
    config = config or GenerationConfig()
    [batch] = _text_batches(model, tokenizer, [prompt], config, draft)
    return (piece for _, piece in text_deltas(batch, tokenizer, config.stop))


def text_deltas(batch: Batch, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> Iterator[tuple[int, str]]:
    """Decode `batch` to its end: (row, text) as soon as a text is certain; a row ends at its first stop string."""
    texts = {row: TextStream(stop) for row in batch.live}
    while batch.live:
        for row, token in batch.step():
            if token == tokenizer.eos_token_id:
                continue  # ignored, and not shown
            text = texts[row]
            piece = text.feed(tokenizer.decode_bytes([token]))
            if text.stopped:
                batch.end(row)
            if piece:
                yield row, piece
        for row in texts.keys() - set(batch.live):
            if rest := texts.pop(row).finish():
                yield row, rest


def _text_batches(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], config: GenerationConfig, draft: Draft
) -> Iterator[Batch]:
    if not all(isinstance(text, str) for text in texts):
        raise InputError("prompts must be text; for token ids there is neolm.generation.batch.generate_ids")
    check_tokenizer(model, tokenizer)
    return batches(model, tokenizer.encode_batch(texts), config, tokenizer.eos_token_id, tokenizer.size, draft)


def check_tokenizer(model: Decoder, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        InputError: it is not this model's.
    """
    if tokenizer.size > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.size} tokens, the model embeds {model.config.vocab_size}: "
            "they do not belong together"
        )
