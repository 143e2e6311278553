"""Text generation: `generate` returns whole continuations, `stream` yields one continuation as it is generated.

Shapes appear one level down, in `neolm.generation.batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from neolm.core.errors import InputError
from neolm.generation.batch import Batch, batches
from neolm.generation.config import GenerationConfig, generation_config
from neolm.generation.speculative import Draft
from neolm.generation.text import TextStream
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder_config import EncoderConfig
from neolm.tokenizer.tokenizer import Tokenizer


def generate(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    config: GenerationConfig | None = None,
    draft: Draft = None,
    **settings: Any,
) -> list[str]:
    """Return the continuation of each prompt, without the prompt, the stop string and the end-of-text token.

    A prompt has the same continuation in a batch as alone with the same seed; a prompt that is given twice has two
    different samples. An empty prompt begins a document. A continuation ends when the model's context is full.

    Args:
        model: A decoder (`neolm.load_model`), on the device where it is to compute.
        tokenizer: Its tokenizer.
        prompts: One prompt or several; a single string gives a list of one continuation.
        config: Settings as one object, instead of `settings`.
        draft: Speculative decoding, which gives the same text in fewer steps: a smaller model with the same tokenizer,
            or "lookup", which copies from the text so far.
        settings: Fields of `GenerationConfig`: max_new_tokens, temperature, top_k, top_p, repetition_penalty,
            presence_penalty, frequency_penalty, logit_bias, stop, ignore_eos, seed.

    Raises:
        InputError: a setting out of range, a prompt longer than the context, or a tokenizer or draft that does not
            belong to the model.
    """
    config = _config(config, settings)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts = [""] * len(prompts)
    for batch in _text_batches(model, tokenizer, prompts, config, draft):
        for row, delta in text_deltas(batch, tokenizer, config.stop):
            texts[row] += delta
    return texts


def stream(
    model: Decoder,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerationConfig | None = None,
    draft: Draft = None,
    **settings: Any,
) -> Iterator[str]:
    """Yield the continuation of one prompt in parts, each as soon as it is final; arguments as in `generate`.

    Arguments are checked at the call, not at the first part. The iterator may be abandoned at any time.

    Raises:
        InputError: as `generate`.
    """
    config = _config(config, settings)
    [batch] = _text_batches(model, tokenizer, [prompt], config, draft)
    return (delta for _, delta in text_deltas(batch, tokenizer, config.stop))


def _config(config: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
    if config is None:
        return generation_config(**settings)
    if not isinstance(config, GenerationConfig) or settings:
        raise InputError(f"config: give a GenerationConfig or keywords such as max_new_tokens=20, not {config!r}")
    return config


def text_deltas(batch: Batch, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> Iterator[tuple[int, str]]:
    """Decode `batch` to its end and yield (row, new text) as it becomes final; a row ends at its first stop string."""
    texts = {row: TextStream(stop) for row in batch.running}
    while batch.running:
        for row, token in batch.step():
            if token in batch.end_token_ids:
                continue  # ignored, and not shown
            text = texts[row]
            delta = text.feed(tokenizer.decode_bytes([token]))
            if text.stopped:
                batch.end(row)
            if delta:
                yield row, delta
        for row in texts.keys() - set(batch.running):
            if rest := texts.pop(row).finish():
                yield row, rest


def _text_batches(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], config: GenerationConfig, draft: Draft
) -> Iterator[Batch]:
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise InputError(
                f"prompt {number} of {len(prompts)} is not text but {type(prompt).__name__}; "
                "for token ids use neolm.generation.batch.generate_ids"
            )
    check_tokenizer(model.config, tokenizer)
    return batches(model, tokenizer.encode_batch(prompts), config, tokenizer.eos_token_id, tokenizer.size, draft)


def check_tokenizer(model: DecoderConfig | EncoderConfig, tokenizer: Tokenizer) -> None:
    """Check that the model has an embedding for every token that text can become.

    Special tokens may be without one, as in models to which transformers added a padding token.

    Raises:
        InputError: it has fewer.
    """
    size = model.vocab_size
    if tokenizer.size > size and (tokenizer.text_size > size or tokenizer.eos_token_id >= size):
        raise InputError(
            f"the tokenizer has {tokenizer.size} tokens, but the model embeds {size}: they do not belong together"
        )
