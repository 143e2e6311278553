"""Activation checkpointing: a block keeps its input and computes the rest again on the way back (Chen et al. 2016).

It is put around the blocks from outside; the model does not know. Dropout draws the same numbers the second time.
"""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from neolm.models.decoder import Decoder


def recompute_blocks(model: Decoder) -> None:
    """Make each block of `model` forget its activations on the way forward."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
