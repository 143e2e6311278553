"""An embedder: an encoder and its tokenizer, that turn a text into a vector (Reimers & Gurevych 2019, section 3).

    embedder = neolm.load_embedder("all-MiniLM-L6-v2")
    vectors = embedder.embed(["A cat sleeps.", "A dog barks."])    # (2, 384)

Texts are sorted by length and computed in batches of about as many tokens, without their padding. The vector of a text
does not depend on its neighbours, beyond the rounding of the matrix products.

Shapes: N texts, B texts of a batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from neolm.core.device import choose_device, choose_precision
from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.embedding.sentence_files import SentenceConfig, read_sentence_config
from neolm.models.encoder import Encoder
from neolm.models.hf import load_encoder, model_directory
from neolm.models.token_batches import token_batches
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

BATCH_TOKENS = 2048
"""Tokens of a batch, unless one text has more."""


class Embedder:
    """Turns texts into vectors."""

    def __init__(self, model: Encoder, tokenizer: Tokenizer, config: SentenceConfig | None = None) -> None:
        """Raises `InputError` if the tokenizer does not fit the model; `config` None: the mean, which is not scaled."""
        check_encoder_tokenizer(tokenizer, model.config.vocab_size)
        self.model, self.tokenizer, self.config = model, tokenizer, config or SentenceConfig()
        positions = model.config.max_position_embeddings
        self.max_length = min(self.config.max_length or positions, positions)
        self.dimensions: int = model.config.hidden_size

    def embed(self, texts: str | Sequence[str], normalize: bool | None = None) -> Tensor:
        """Vectors (N, C) of `texts` in their order, float32 on the CPU.

        Of a text with more than `max_length` tokens only the beginning is read; how many texts that were is printed.

        Args:
            texts: The texts; one text gives one row.
            normalize: Scale vectors to length 1, so that their product is the cosine; None: as the model's files say.

        Raises:
            InputError: `texts` has something else than texts.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if wrong := next((text for text in texts if not isinstance(text, str)), None):
            raise InputError(f"texts: a list of texts is needed; one of its entries is of type {type(wrong).__name__}")
        inputs = encode_texts(self.tokenizer, self.config, texts)
        if long := sum(len(ids) > self.max_length for ids in inputs):
            say(f"embed: {long} of {len(texts)} texts have more than {self.max_length} tokens; the rest is left out")
            inputs = [truncate(ids, self.max_length) for ids in inputs]
        return self.embed_ids(inputs, normalize)

    def embed_ids(self, inputs: Sequence[Sequence[int]], normalize: bool | None = None) -> Tensor:
        """Vectors (N, C) of token ids, special ones included, in batches of nearly equal lengths."""
        vectors = torch.empty(len(inputs), self.dimensions)
        for rows in token_batches([len(ids) for ids in inputs], BATCH_TOKENS):
            vectors[rows] = self.embed_batch([inputs[row] for row in rows], normalize)
        return vectors

    @torch.inference_mode()
    def embed_batch(self, inputs: Sequence[Sequence[int]], normalize: bool | None = None) -> Tensor:
        """Vectors (B, C) of token ids, special ones included, computed at once; float32 on the CPU."""
        lengths = torch.tensor([len(ids) for ids in inputs])  # (B)
        T = int(lengths.max())
        mask = torch.arange(T) < lengths.unsqueeze(1)  # (B, T)
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        ids[mask] = torch.tensor([token for one in inputs for token in one])
        device = self.model.device
        hidden = self.model.hidden_states(ids.to(device), mask.to(device))  # (B, T, C), zero at padding
        if self.config.pooling == "mean":
            vectors = hidden.sum(dim=1, dtype=torch.float32) / lengths.unsqueeze(1).to(device)  # (B, C)
        elif self.config.pooling == "cls":
            vectors = hidden[:, 0].float()  # (B, C)
        else:
            vectors = hidden.masked_fill(~mask.unsqueeze(2).to(device), float("-inf")).amax(dim=1).float()  # (B, C)
        if self.config.normalize if normalize is None else normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors.cpu()


def encode_texts(tokenizer: Tokenizer, config: SentenceConfig, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text with its prompt and special tokens, not truncated."""
    whole = [config.prompt + text for text in texts]
    encoded = tokenizer.encode_batch([text.lower() for text in whole] if config.lowercase else whole)
    return [tokenizer.with_special(ids)[0] for ids in encoded]


def truncate(ids: list[int], length: int) -> list[int]:
    """The first `length` of the ids of a text, of which the last is [SEP]."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def check_encoder_tokenizer(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise an `InputError` if the tokenizer has no [CLS] and [SEP], or ids that the model does not have."""
    tokenizer.with_special([])
    if tokenizer.size > vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.size:,} tokens and the model {vocab_size:,}: they do not belong together"
        )


def load_embedder(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> Embedder:
    """Load an encoder with its tokenizer and the settings of its files; the arguments are those of `load_model`.

    With `quantize` and no `dtype`, activations are in bfloat16 if the device is fast in it: products with rounded
    weights are in bfloat16 there anyway, and everything else takes half the memory traffic.

    How vectors are made is read from the files of sentence-transformers. Without them, the mean is taken, and a line
    says so.

    Raises:
        InputError: there is no complete encoder with a tokenizer.
    """
    directory = model_directory(path)
    if quantize is not None and dtype is None:
        target = choose_device("auto" if device is None else str(device)).value
        dtype = choose_precision("auto", target).value
    config = read_sentence_config(directory)
    embedder = Embedder(load_encoder(directory, device, dtype, quantize), load_tokenizer(directory), config)
    if config.assumed:
        say(f"{directory}: no file says how to pool; the mean over the tokens is taken")
    return embedder
