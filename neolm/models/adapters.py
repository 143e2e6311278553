"""Low-rank adapters (LoRA, Hu et al. 2021): small matrices beside frozen linear layers.

    add_lora(model, rank=8, alpha=16.0, targets=("query", "value"))    # only A, B and a classifier's head are trained
    merge_lora(model)                                                  # the same logits, without the small matrices

A layer W gets h = W x + alpha / r * B A x (equation 3), with A (r, inputs) random and B (outputs, r) zero, so that
nothing changes at first. Layers that are published as several matrices, such as the queries, keys and values of BERT,
have an A and a B for each, as in PEFT; those that are published as one (GPT-2, GPT-NeoX) have one A. The head of a
classifier, and the pooler that it reads, are trained in full. `neolm.models.adapter_files` has the files.

Left out: adapters of embeddings and of quantised layers, rsLoRA, DoRA, several adapters at once.

Shapes: C channels, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.core.errors import InputError, SettingError
from neolm.models.dropout import dropout
from neolm.models.encoder_config import EncoderConfig, needs_pooler
from neolm.models.hf_names import rule_of
from neolm.models.model import Model

M = TypeVar("M", bound=Model)

TARGETS: dict[str, tuple[str, int | None]] = {
    "qkv": ("attention.qkv", None),
    "query": ("attention.qkv", 0),
    "key": ("attention.qkv", 1),
    "value": ("attention.qkv", 2),
    "output": ("attention.output", None),
    "expand": ("mlp.expand", None),
    "contract": ("mlp.contract", None),
}
"""Layers of a block that can have an adapter, each with the published matrix in it (None: all of them)."""
CLASSIFIERS = ("sequence", "token", "choice", "span")
"""Heads that are trained in full, because a new one is random."""
TOLERANCE = 1e-5
"""Largest difference of logits before and after a merge, times the largest logit if that is more than 1."""
PROBE_ROWS, PROBE_TOKENS = 4, 32


class LoraLinear(nn.Linear):
    """A linear layer with low-rank matrices for some of the `count` published matrices in its rows."""

    lora_a: nn.ParameterList
    lora_b: nn.ParameterList

    def __init__(
        self, layer: nn.Linear, count: int, parts: Sequence[int], rank: int, alpha: float, dropout: float
    ) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.count, self.parts = count, tuple(sorted(parts))
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.merged = False
        self.lora_a = self._zeros(rank, layer.in_features)
        self.lora_b = self._zeros(layer.out_features // count, rank)

    def _zeros(self, *shape: int) -> nn.ParameterList:
        """A matrix for each part, in float32, because it is trained."""
        return nn.ParameterList(nn.Parameter(torch.zeros(shape, device=self.weight.device)) for _ in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        y = super().forward(x)
        if self.merged:
            return y
        low = F.linear(dropout(x, self.dropout, self.training), torch.cat(list(self.lora_a)).to(x.dtype))
        pieces = list(y.chunk(self.count, dim=-1))
        for part, states, up in zip(self.parts, torch.split(low, self.rank, dim=-1), self.lora_b, strict=True):
            pieces[part] = pieces[part] + F.linear(states, up.to(x.dtype)) * (self.alpha / self.rank)
        return pieces[0] if self.count == 1 else torch.cat(pieces, dim=-1)

    @torch.no_grad()
    def add_to_weight(self, sign: float) -> None:
        """Add alpha / r * B A, times `sign`, to the weight."""
        rows = self.weight.chunk(self.count)
        for part, down, up in zip(self.parts, self.lora_a, self.lora_b, strict=True):
            update = torch.mm(up, down) * (sign * self.alpha / self.rank)
            rows[part].add_(update.to(self.weight.dtype))


def add_lora(
    model: M,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] = ("qkv",),
    seed: int = 0,
) -> M:
    """Freeze `model` and give adapters to the layers `targets` of all blocks; returns it. Its outputs do not change.

    Args:
        model: A decoder or an encoder in any precision. What is trained is made float32.
        rank: Rows of A.
        alpha: The updates are multiplied by alpha / rank.
        dropout: Dropout of the adapters' input in training.
        targets: Keys of `TARGETS`.
        seed: Of the random A, which are drawn on the CPU from U(-1/sqrt(C), 1/sqrt(C)), PEFT's default.

    Raises:
        InputError: the model is quantised or has adapters already.
        SettingError: a setting that is not possible.
    """
    if not 0 < rank <= model.config.hidden_size:
        raise SettingError("rank", f"{rank} is not between 1 and the {model.config.hidden_size} channels of the model")
    if not 0 <= dropout < 1 or not alpha > 0:
        name = "alpha" if 0 <= dropout < 1 else "dropout"
        raise SettingError(name, "alpha must be positive" if name == "alpha" else f"{dropout} is not in [0, 1)")
    layers = attach(model, _chosen_parts(model, targets), rank, alpha, dropout)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        bound = 1 / math.sqrt(layer.in_features)
        for matrix in layer.lora_a:
            drawn = torch.empty(matrix.shape).uniform_(-bound, bound, generator=generator)
            matrix.data.copy_(drawn)
    return model


def attach(
    model: Model, chosen: Mapping[str, Sequence[int]], rank: int, alpha: float, dropout: float
) -> dict[str, LoraLinear]:
    """Freeze the model and put zero adapters beside the layers `chosen`, each with its parts; see `add_lora`."""
    check_adaptable(model)
    model.requires_grad_(False)
    for name, parts in chosen.items():
        layer, (parent, _, kind) = model.get_submodule(name), name.rpartition(".")
        assert isinstance(layer, nn.Linear)
        adapted = LoraLinear(layer, published_parts(model, name), parts, rank, alpha, dropout)
        setattr(model.get_submodule(parent), kind, adapted.train(layer.training))
    for name in full_modules(model):
        for parameter in model.get_submodule(name).parameters():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
            parameter.requires_grad_(True)
    return lora_layers(model)


def check_adaptable(model: Model) -> None:
    """Raise an `InputError` if the model cannot get adapters."""
    if model.quantized:
        raise InputError("LoRA: a quantised model cannot get adapters; load the model that it was quantised from")
    if lora_layers(model):
        raise InputError("LoRA: the model has adapters already; merge them first, and save and load the model")
    config = model.config
    if isinstance(config, EncoderConfig) and config.shares and config.sharing != "all":
        raise InputError(
            f"LoRA: an ALBERT with sharing '{config.sharing}' has no published form in which adapters are shared too"
        )


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def full_modules(model: Model) -> tuple[str, ...]:
    """Names of the modules that are trained in full and saved with an adapter: a classifier's head, and its pooler."""
    config = model.config
    if config.head not in CLASSIFIERS:
        return ()
    pools = isinstance(config, EncoderConfig) and needs_pooler(config.head, config.pooling)
    return ("pooler", "head") if pools else ("head",)


def published_parts(model: Model, name: str) -> int:
    """Number of published matrices that the layer `name` of a block consists of."""
    return len(rule_of(model.config, f"{name}.weight").theirs)


def target_layers(model: Model) -> list[str]:
    """Names of all layers that can have an adapter; layers that blocks share once."""
    ends = tuple({end for end, _ in TARGETS.values()})
    return [name for name, _ in model.named_modules() if name.startswith("blocks.") and name.endswith(ends)]


def _chosen_parts(model: Model, targets: Sequence[str]) -> dict[str, list[int]]:
    """Layers that `targets` name, with their parts."""
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets or isinstance(targets, str):
        shown = f"'{unknown[0]}' is not one of" if unknown and not isinstance(targets, str) else "give a list of"
        raise SettingError("targets", f"{shown} {', '.join(TARGETS)}")
    chosen: dict[str, list[int]] = {}
    for name in target_layers(model):
        count = published_parts(model, name)
        for end, part in (TARGETS[target] for target in targets):
            if not name.endswith(end):
                continue
            if part is not None and count == 1:
                raise SettingError(
                    "targets", f"{model.config.family} has one matrix for queries, keys and values; use qkv"
                )
            added = range(count) if part is None else (part,)
            chosen[name] = sorted({*chosen.get(name, ()), *added})
    return chosen


def merge_lora(model: Model, probe: Mapping[str, Tensor] | None = None) -> None:
    """Add the adapters to the weights, so that the model computes without them; `unmerge_lora` takes them out again.

    Args:
        model: A model with adapters, in evaluation or training mode.
        probe: Arguments of the model, such as `input_ids` and `attention_mask`; None: some random rows.

    Raises:
        InputError: there is no adapter, or logits on the probe rows differ by more than `TOLERANCE`, as they do in half
            precision. The model is then as before.
    """
    layers = [layer for layer in lora_layers(model).values() if not layer.merged]
    if not layers:
        raise InputError("merge: the model has no LoRA adapters, or they are merged already")
    rows = {name: tensor.to(model.device) for name, tensor in (probe or _random_rows(model)).items()}
    before, originals = _logits(model, rows), [layer.weight.detach().clone() for layer in layers]
    for layer in layers:
        layer.add_to_weight(1.0)
        layer.merged = True
    after = _logits(model, rows)
    difference, size = (after - before).abs().max().item(), before.abs().max().item()
    if difference <= TOLERANCE * max(1.0, size):
        return
    for layer, original in zip(layers, originals, strict=True):
        layer.weight.data.copy_(original)
        layer.merged = False
    advice = "" if model.dtype == torch.float32 else f"; the weights are {model.dtype}: load the model in float32"
    raise InputError(f"merge: refused, because logits on the probe rows differ by {difference:.2g}{advice}")


def unmerge_lora(model: Model) -> None:
    """Take merged adapters out of the weights again."""
    for layer in lora_layers(model).values():
        if layer.merged:
            layer.add_to_weight(-1.0)
            layer.merged = False


def plain_parameters(model: Model) -> dict[str, nn.Parameter]:
    """The parameters of `model` without those of merged adapters, by name.

    Raises:
        InputError: adapters are not merged, so that these parameters alone are another model.
    """
    layers = lora_layers(model)
    if any(not layer.merged for layer in layers.values()):
        raise InputError("the model has LoRA adapters: merge them before it is saved, or save the adapter alone")
    own = {f"{name}.{own}" for name, layer in layers.items() for own, _ in layer.named_parameters() if "lora_" in own}
    return {name: parameter for name, parameter in model.named_parameters() if name not in own}


def _logits(model: Model, rows: Mapping[str, Tensor]) -> Tensor:
    """The model's outputs without dropout and gradients; its mode is restored."""
    training = model.training
    try:
        with torch.no_grad():
            return model.eval()(**rows)  # type: ignore[no-any-return]
    finally:
        model.train(training)


def _random_rows(model: Model) -> dict[str, Tensor]:
    shape = PROBE_ROWS, min(PROBE_TOKENS, model.config.max_position_embeddings)
    return {"input_ids": torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))}
