"""The head of a model that is fine-tuned: a new one for its targets, and the weights of a probe in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neolm.core.errors import InputError, SettingError
from neolm.core.progress import say
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import EncoderConfig, Pooling
from neolm.models.stored_model import build
from neolm.prediction.targets import Targets

TextModel = Encoder | Decoder
TextModelConfig = EncoderConfig | DecoderConfig


def with_head(base: TextModel, config: TextModelConfig, seed: int) -> TextModel:
    """A model with the trunk of `base` and the head of `config`; `seed` draws what `base` does not have.

    The head is new, unless it is a language model's.

    Raises:
        InputError: the base is quantised.
    """
    if base.quantized:
        raise InputError("finetune: the base is quantised and cannot be trained; give the model it was made from")
    model = build(config).initialise(seed)
    keeps_head = config.head == base.config.head == "language-model"
    known = {name: weight for name, weight in base.named_parameters() if keeps_head or not name.startswith("head.")}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in known:
                parameter.copy_(known[name])
    new = {name.partition(".")[0] for name, _ in model.named_parameters() if name not in known} - {"head"}
    if new:
        say(f"finetune: the base has no {' and '.join(sorted(new))}, so that it is drawn at random")
    return model.to(base.device)


def head_config(base: TextModelConfig, targets: Targets, pooling: Pooling) -> TextModelConfig:
    """The configuration of `base` with a head for the targets. A decoder's head always reads the last token."""
    changes = {
        "head": "sequence",
        "num_labels": len(targets.names),
        "labels": targets.names,
        "problem": targets.problem,
    }
    if isinstance(base, DecoderConfig):
        ends = base.eos_token_id
        padding = ends if ends is None or isinstance(ends, int) else ends[0]  # other programs find the last token by it
        changes["pad_token_id"] = padding if base.pad_token_id is None else base.pad_token_id
        return DecoderConfig(**{**base.model_dump(), **changes})
    changes |= {"pooling": pooling, "pooler": pooling == "first", "sentence_task": None}
    return EncoderConfig(**{**base.model_dump(), **changes})


def set_head(model: TextModel, weight: Tensor, bias: Tensor) -> None:
    """Set weight (K, C) and bias (K,) of the head; a decoder's head has no bias, and `bias` is zero."""
    head = linear_head(model)
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias)


def reinitialise(model: TextModel, layers: int, seed: int) -> None:
    """Draw the highest `layers` of the model anew, with its pooler and its head.

    Raises:
        SettingError: the model has fewer layers, or they share their parameters.
    """
    if layers >= len(model.blocks):
        shared = isinstance(model.config, EncoderConfig) and model.config.shares
        reason = "the layers share their parameters" if shared else "one must be left of what the base has learnt"
        raise SettingError("reinitialised_layers", f"{layers} of {len(model.blocks)} stored layers; {reason}")
    first = len(model.blocks) - layers
    new = dict(build(model.config).initialise(seed).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            part, _, rest = name.partition(".")
            if part in ("head", "pooler") or (part == "blocks" and int(rest.partition(".")[0]) >= first):
                parameter.copy_(new[name])


def scale_head(model: TextModel, mean: float, deviation: float) -> None:
    """Let the head of a regression give numbers of this mean and standard deviation instead of standardised ones."""
    head = linear_head(model)
    with torch.no_grad():
        head.weight.mul_(deviation)
        if head.bias is not None:
            head.bias.mul_(deviation).add_(mean)


def linear_head(model: TextModel) -> nn.Linear:
    """The head of a classifier of texts."""
    head = model.head
    assert isinstance(head, nn.Linear)
    return head
