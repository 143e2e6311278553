"""Train the tokenizers of encoders: BERT's WordPiece and ALBERT's Unigram (Kudo 2018), with the library `tokenizers`.

The trainers of the library iterate over hash maps, so that two runs differ in ids, and WordPiece in tokens too. Here
the same text gives the same ids: WordPiece gets its characters in a fixed order, and the pieces of a Unigram, whose
scores differ in the last digits, are sorted by rounded score.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers, trainers

from neolm.tokenizer.byte_level_tokenizer import library_errors
from neolm.tokenizer.encoder_pipeline import (
    ALBERT_SPLITS,
    DEFAULT_TOKENS,
    MAX_WORD_CHARACTERS,
    PREFIX,
    albert_normalizer,
    bert_normalizer,
    decoder_of,
)
from neolm.tokenizer.encoder_tokenizer import EncoderTokenizer, pair_template
from neolm.tokenizer.tokenizer import check_reached_size

MIN_FREQUENCY = 2  # of a pair of WordPiece, as of a pair of BPE
_SCORE_DIGITS = 9
_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")  # in the order of their ids
# Pieces have letters, digits or one mark, as SentencePiece splits text for training. Text is encoded without these
# splits, which gives the same tokens, because no piece crosses one.
_RUNS = Regex(r"▁?\p{N}+|▁?[\p{L}\p{M}]+|▁|[^▁\p{L}\p{M}\p{N}]")
Texts = Callable[[], Iterable[str]]


def train_encoder_tokenizer(
    texts: Texts,
    kind: Literal["wordpiece", "unigram"],
    vocab_size: int,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    byte_fallback: bool = False,
) -> EncoderTokenizer:
    """Train a tokenizer of exactly `vocab_size` tokens; `texts()` is read twice.

    The special tokens have the ids 0 to 4. At most a quarter of the tokens are single characters, the ones that are in
    most texts; a word (WordPiece) or a character (Unigram) outside of them is unknown, or bytes with `byte_fallback`,
    which only a Unigram has.

    Raises:
        SettingError: the text is too small for a vocabulary of this size.
    """
    model = "WordPiece" if kind == "wordpiece" else "Unigram"
    special = [DEFAULT_TOKENS[model][name] for name in _NAMES]
    if kind == "wordpiece":
        parts: dict[str, Any] = {
            "normalizer": bert_normalizer(lowercase, strip_accents),
            "pre_tokenizer": {"type": "BertPreTokenizer"},
        }
    else:
        keep_accents = not (lowercase if strip_accents is None else strip_accents)
        parts = {"normalizer": albert_normalizer(lowercase, keep_accents), "pre_tokenizer": ALBERT_SPLITS}
    parts["decoder"] = decoder_of(model, byte_fallback)
    backend = tokenizers.Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}, **parts}))
    with library_errors("tokenizer", "the text cannot be trained on"):
        alphabet, continuing = _characters(backend, texts(), vocab_size // 4)
        known = _only(texts(), backend, alphabet)
        if kind == "wordpiece":
            first = [*special, *alphabet, *(PREFIX + character for character in alphabet if character in continuing)]
            backend.model = _wordpiece(backend, known, vocab_size, first)
        else:
            backend.model = _unigram(backend, known, vocab_size, special, byte_fallback)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {name: token for name, token in DEFAULT_TOKENS[model].items() if token in special}
    backend.post_processor = pair_template(backend, named)
    return EncoderTokenizer(backend, kind, named)


def _characters(backend: tokenizers.Tokenizer, texts: Iterable[str], limit: int) -> tuple[list[str], set[str]]:
    """The characters of the normalised texts, at most `limit`, sorted; and those that are inside of a word."""
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        normalized = backend.normalizer.normalize_str(_clean(text))
        counts.update(set(normalized))
        pairs.update(itertools.pairwise(normalized))
    kept = sorted((one for one in counts if not one.isspace()), key=lambda one: (-counts[one], one))[:limit]
    words = {pair: [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("".join(pair))] for pair in pairs}
    return sorted(kept), {pair[1] for pair in pairs if words[pair] == ["".join(pair)]}


def _only(texts: Iterable[str], backend: tokenizers.Tokenizer, alphabet: Iterable[str]) -> Iterator[str]:
    """The normalised texts with spaces in place of characters that are not in `alphabet`."""
    kept = set(alphabet)
    for text in texts:
        normalized = backend.normalizer.normalize_str(_clean(text))
        others = set(normalized) - kept
        yield normalized.translate(dict.fromkeys(map(ord, others), " ")) if others else normalized


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _wordpiece(
    backend: tokenizers.Tokenizer, texts: Iterator[str], vocab_size: int, first: list[str]
) -> models.WordPiece:
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=MIN_FREQUENCY, show_progress=False, special_tokens=first
    )
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token=first[1]))
    trained.pre_tokenizer = backend.pre_tokenizer
    trained.train_from_iterator(texts, trainer)
    vocab = trained.get_vocab()
    check_reached_size(len(vocab), vocab_size)
    return models.WordPiece(
        vocab, unk_token=first[1], max_input_chars_per_word=MAX_WORD_CHARACTERS, continuing_subword_prefix=PREFIX
    )


def _unigram(
    backend: tokenizers.Tokenizer, texts: Iterator[str], vocab_size: int, special: list[str], byte_fallback: bool
) -> models.Unigram:
    size = vocab_size - 256 if byte_fallback else vocab_size
    trainer = trainers.UnigramTrainer(
        vocab_size=size, show_progress=False, special_tokens=special, unk_token=special[1]
    )
    trained = tokenizers.Tokenizer(models.Unigram())
    splits = pre_tokenizers.Split(_RUNS, "isolated")
    trained.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, splits])
    trained.train_from_iterator(texts, trainer)
    found = json.loads(trained.to_str())["model"]["vocab"][len(special) :]
    check_reached_size(len(found) + vocab_size - size + len(special), vocab_size)
    scores = sorted(((text, round(score, _SCORE_DIGITS)) for text, score in found), key=lambda one: (-one[1], one[0]))
    bytes_ = [(f"<0x{byte:02X}>", scores[-1][1]) for byte in range(256)] if byte_fallback else []
    return models.Unigram([*((token, 0.0) for token in special), *bytes_, *scores], 1, byte_fallback)
