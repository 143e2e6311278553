"""Tiny decoders whose output depends on the whole input."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.quantized import BITS, prepare_quantized, set_tensor


def tiny_decoder(family: str, context: int, seed: int = 0, spread: float = 0.2, **fields: Any) -> Decoder:
    """Return a model with two layers of 32 channels (or `fields`) and standard deviation `spread` of every matrix."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 330, "max_position_embeddings": context}
    model = Decoder(decoder_config(family, **{**sizes, **fields})).initialise(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread / parameter.std())
    return model.eval()


def quantize(model: Decoder, form: str) -> Decoder:
    """Quantise the weights of `model` in place to `int8` or `int4`."""
    weights = {name: layer.weight.detach() for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    prepare_quantized(model, BITS[form])
    for name, weight in weights.items():
        set_tensor(model, f"{name}.weight", weight, model.device, model.dtype, lambda tensor: tensor)
    return model
