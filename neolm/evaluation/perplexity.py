"""Loss, perplexity and bits per byte of documents, by a sliding window.

Definitions (lm-evaluation-harness, `lm_eval/api/metrics.py`), with nll the summed negative log-likelihood in nats:

    loss = nll / tokens                   token perplexity = exp(loss)
    bits per byte = nll / (bytes ln 2)    word perplexity  = exp(nll / words)

Bytes and words are counted in the raw text, so that models with different tokenizers are comparable. As in training, an
end-of-text token precedes each document. The end-of-text token after the document is not scored: it is not part of the
text, and a compressor does not store it either.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from neolm.core.errors import InputError, NonFiniteError
from neolm.core.progress import task
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.evaluation.windows import Ids, Window, score_windows, sliding_windows
from neolm.generation.generate import check_tokenizer
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

ENCODE_BATCH = 256  # texts given to the tokenizer at a time


@dataclass(frozen=True)
class DocumentScore:
    """Negative log-likelihood of a document in nats, and its length in tokens, bytes and words."""

    negative_log_likelihood: float
    tokens: int
    bytes: int
    words: int


def document_scores(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    names: Sequence[str] | None = None,
    ranks: RunRanks = ONE_RANK,
) -> list[DocumentScore]:
    """Score each text with a sliding window; every token is scored once.

    Args:
        model: A decoder; it computes on its device in its precision.
        tokenizer: Its tokenizer.
        texts: Any texts; an empty text has no tokens and a likelihood of 1.
        window: Tokens that the model reads at a time; None: its context.
        stride: Tokens that the window moves by; None: half the window.
        batch_size: Windows computed at a time; the scores do not depend on it.
        names: Names of the texts for errors; None: their numbers.
        ranks: The connected processes that share the windows; all of them call this.

    Raises:
        InputError: window longer than the context, stride longer than the window, or the tokenizer of another model.
        NonFiniteError: the likelihood of a text is not finite.
    """
    check_tokenizer(model.config, tokenizer)
    window, stride = window_and_stride(model.config.max_position_embeddings, window, stride)
    raw = [text_bytes(text) for text in texts]
    windows: list[Window] = []
    owners: list[int] = []
    tokens: list[int] = []
    for number, ids in enumerate(_encode(tokenizer, texts, raw)):
        found = list(sliding_windows(ids, window, stride))
        windows += found
        owners += [number] * len(found)
        tokens.append(len(ids) - 1)
    with task("evaluation", sum(tokens), "tokens") as shown:
        sums, _ = score_windows(model, windows, batch_size, shown.advance, ranks)
    costs = np.zeros(len(texts))
    np.subtract.at(costs, owners, sums)
    if not np.isfinite(costs).all():
        first = int(np.flatnonzero(~np.isfinite(costs))[0])
        name = names[first] if names else f"number {first + 1}"
        raise NonFiniteError(f"evaluation: the likelihood of document {name} is not finite")
    return [
        DocumentScore(float(cost), count, len(data), word_count(text))
        for cost, count, data, text in zip(costs, tokens, raw, texts, strict=True)
    ]


def window_and_stride(context: int, window: int | None, stride: int | None) -> tuple[int, int]:
    """Return the window and the stride for a model with a context of `context` tokens.

    None stands for the context and for half of the window.

    Raises:
        InputError: the window is longer than the context, or the stride longer than the window.
    """
    chosen = context if window is None else window
    if not 0 < chosen <= context:
        raise InputError(f"evaluate.window: {chosen} is not between 1 and the model's context of {context} tokens")
    step = max(1, chosen // 2) if stride is None else stride
    if not 0 < step <= chosen:
        raise InputError(f"evaluate.stride: {step} is not between 1 and the window of {chosen} tokens")
    return chosen, step


def text_bytes(text: str) -> bytes:
    r"""Return the bytes of a text in UTF-8.

    Lone surrogates have no UTF-8 encoding. Those that stand for bytes that Python could not decode (`surrogateescape`,
    U+DC80 to U+DCFF) become these bytes again; others become the three bytes of `surrogatepass`.
    """
    for errors in ("strict", "surrogateescape"):
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode("utf-8", errors)
    return text.encode("utf-8", "surrogatepass")


def word_count(text: str) -> int:
    """Number of words as lm-evaluation-harness counts them; an empty text has one word."""
    return len(re.split(r"\s+", text))


def _encode(tokenizer: Tokenizer, texts: Sequence[str], raw: Sequence[bytes]) -> Iterator[Ids]:
    """The end-of-text token and the tokens of each text; text with lone surrogates is encoded byte by byte."""
    for start in range(0, len(texts), ENCODE_BATCH):
        part = texts[start : start + ENCODE_BATCH]
        for number, (text, ids) in enumerate(zip(part, tokenizer.encode_batch(part), strict=True), start):
            has_surrogates = not text.isascii() and re.search("[\ud800-\udfff]", text)
            whole = tokenizer.encode_bytes(raw[number]) if has_surrogates else ids
            yield np.array([tokenizer.eos_token_id, *whole], np.int64)
