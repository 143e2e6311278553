"""What a forward pass leaves in memory for the backward pass: the tensors that autograd keeps, in bytes a block.

Found by reading `neolm.models` and the operators that it calls, and checked against measurements by
tests/training/test_memory.py. What torch.compile saves by computing again is not credited.

Shapes: B batch, T time, C channels, H heads, W window, I width of the MLP; a row is a token of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from neolm.models.block import ACTIVATIONS
from neolm.models.block_attention import blocks, keeps_weights
from neolm.models.config import DecoderConfig
from neolm.models.gelu import CHUNK, gelu_tanh

# Tensors of the MLP's width that a block keeps (what the non-linearity's derivative needs, and what it gave), and how
# many more there are for a moment on the way back.
_MLP_TENSORS = {"relu": (1, 2), "tanh": (1, 2), "quick_gelu": (3, 2)}


@dataclass(frozen=True)
class Passes:
    """A forward and a backward pass of B sequences of T tokens."""

    batch: int
    length: int
    precision: str
    cpu: bool
    fused: bool
    """Whether a local layer is one kernel, as it is in a compiled model on a GPU."""

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return 4 if self.precision == "float32" else 2

    @property
    def rows(self) -> int:
        """Tokens."""
        return self.batch * self.length

    def mask(self, channels: int) -> int:
        """What dropout on a tensor of so many channels keeps: the factors on a CPU, elsewhere a byte a number."""
        return self.rows * channels * (self.item if self.cpu else 1)


@dataclass(frozen=True)
class BlockActivations:
    """The bytes of one block."""

    input: int
    """What it reads, and all that it keeps with activation checkpointing."""
    attention: int
    mlp: int
    attention_work: int
    """More than `input` and `attention` while the backward pass is in the attention; the MLP's are gone by then."""
    mlp_work: int
    """More than all three when the backward pass begins."""
    forward_work: int
    """More than all three for a moment of the forward pass."""

    @property
    def kept(self) -> int:
        """What the forward pass leaves."""
        return self.input + self.attention + self.mlp

    def most(self, recomputed: bool) -> int:
        """The most that exists while the backward pass is in this block, which may compute it again first."""
        forward = self.kept + self.forward_work if recomputed else 0
        return max(forward, self.kept + self.mlp_work, self.input + self.attention + self.attention_work)


def block_activations(model: DecoderConfig, layer: int, passes: Passes) -> BlockActivations:
    """The activations of block `layer` (from 0)."""
    stream = passes.rows * model.hidden_size * passes.item  # (B, T, C)
    statistics = 2 * passes.rows * 4  # a norm's means and deviations
    dropped = passes.mask(model.hidden_size) if model.residual_dropout else 0
    kept, work = _attention(model, layer, passes)
    widest = passes.rows * model.mlp_size * passes.item  # (B, T, I)
    weight = model.mlp_size * model.hidden_size * passes.item  # the gradient of one
    kept_wide, more_wide = _MLP_TENSORS.get(model.activation, (2, 1))
    middle = 0 if model.parallel_residual else stream  # what the second norm reads, if not the block's input
    own_gelu = passes.cpu and ACTIVATIONS[model.activation] is gelu_tanh  # holds its input and chunks in float32
    return BlockActivations(
        input=stream,
        attention=stream + statistics + kept + dropped,  # the first is what the norm gives
        mlp=middle + stream + statistics + kept_wide * widest + dropped,
        attention_work=2 * stream + work,  # gradients of what the block and its attention gave
        mlp_work=stream + more_wide * widest + weight,
        forward_work=widest + 12 * min(CHUNK, passes.rows * model.mlp_size) if own_gelu else 0,
    )


def _attention(model: DecoderConfig, layer: int, passes: Passes) -> tuple[int, int]:
    """Bytes that attention keeps between its norm and its output layer, and more while its backward pass runs.

    The one place that follows `neolm.models.attention`: change it with that.
    """
    B, T, W = passes.batch, passes.length, model.window(layer)
    one = B * T * model.hidden_size * passes.item  # of q, k, v or the result
    local = W is not None and W < T
    if (local and not (passes.fused and not model.attention_dropout)) or (
        passes.cpu and passes.precision == "bfloat16"
    ):
        return _in_blocks(model, passes, W if local else None)
    if passes.cpu and model.attention_dropout:  # no fused kernel there: weights, factors, and what they leave
        weights = B * model.num_heads * T * T * passes.item
        return 4 * one + 3 * weights, 3 * one + 2 * weights
    turned = (3 if passes.cpu else 2) if model.position_embedding == "rotary" else 0  # q, k; on a CPU the result again
    sums = 4 * B * model.num_heads * T  # the logarithm of each query's softmax denominator
    return (4 + turned) * one + sums, 3 * one


def _in_blocks(model: DecoderConfig, passes: Passes, window: int | None) -> tuple[int, int]:
    """Of attention by `block_attention`."""
    T, rows = passes.length, passes.batch * model.num_heads
    one = rows * T * (model.hidden_size // model.num_heads) * passes.item
    pairs = [(q.stop - q.start) * (k.stop - k.start) * rows * passes.item for q, k in blocks(T, window)]
    copies = (1 if keeps_weights(T, window) else 0) + (1 if model.attention_dropout else 0)
    sums = 2 * one * 4 // passes.item  # of the gradients of k and v, in float32
    work = max(one + sums + (5 - copies) * max(pairs), 6 * one)  # the last: three gradients, and all put together
    return 4 * one + copies * sum(pairs), work
