"""Activation checkpointing: keep the input of a block and recompute the rest in the backward pass (Chen et al. 2016).

The blocks are wrapped from outside; the model does not know. Dropout draws the same numbers the second time.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model: the members of its module list `blocks`."""
    lists = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for blocks in lists for block in blocks.children()]


def recompute_blocks(model: nn.Module) -> None:
    """Make each block of `model` drop its activations in the forward pass."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
