"""What a model gives for texts in windows: the mean over the windows of its logits, or of what its head reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neolm.core.progress import task
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.token_batches import padded, text_inputs, token_batches
from neolm.prediction.text_windows import EncodedText

BATCH_TOKENS = 4096


def frozen_features(model: Encoder | Decoder, texts: Sequence[EncodedText]) -> Tensor:
    """Mean over the windows of each text of what the head of `model` reads, (N, C), float32 on the CPU."""
    return _mean(model, texts, model.pooled, "Computing frozen features")


def text_logits(model: Encoder | Decoder, texts: Sequence[EncodedText]) -> Tensor:
    """Mean over the windows of each text of the logits of `model`, (N, K), float32 on the CPU."""
    return _mean(model, texts, model, "Predicting")


@torch.inference_mode()
def _mean(model: Encoder | Decoder, texts: Sequence[EncodedText], compute: Callable[..., Tensor], title: str) -> Tensor:
    model.eval()
    owners = [number for number, text in enumerate(texts) for _ in text.windows]
    windows = [window for text in texts for window in zip(text.windows, text.types, strict=True)]
    means: Tensor | None = None
    with task(title, len(windows), "windows") as shown:
        for rows in token_batches([len(ids) for ids, _ in windows], BATCH_TOKENS):
            inputs = padded([windows[row] for row in rows])
            batch = {name: inputs[name].to(model.device) for name in text_inputs(model)}
            found = compute(**batch).float().cpu()  # (B, C)
            means = torch.zeros(len(texts), found.shape[1]) if means is None else means
            texts_of = [owners[row] for row in rows]
            counts = torch.tensor([len(texts[owner].windows) for owner in texts_of])
            means.index_add_(0, torch.tensor(texts_of), found / counts[:, None])
            shown.advance(len(rows))
    assert means is not None, "there is no text"
    return means.clone()
