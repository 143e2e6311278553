"""What a forward pass leaves in memory for the backward pass: the tensors that autograd keeps, in bytes a block.

Found by reading `neolm.models` and the operators that it calls, and checked against measurements by
tests/training/test_memory.py. What torch.compile saves by computing again is not credited.

Shapes: B batch, T time, C channels, H heads, W window, I width of the MLP; a row is a token of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from neolm.models.attention import PRODUCT_KEYS
from neolm.models.config import DecoderConfig

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

    @property
    def kept(self) -> int:
        """What the forward pass leaves."""
        return self.input + self.attention + self.mlp

    @property
    def most(self) -> int:
        """The most that exists while the backward pass is in this block."""
        return max(self.kept + self.mlp_work, self.input + self.attention + self.attention_work)


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
    return BlockActivations(
        input=stream,
        attention=stream + statistics + kept + dropped,  # the first is what the norm gives
        mlp=middle + stream + statistics + kept_wide * widest + dropped,
        attention_work=2 * stream + work,  # gradients of what the block and its attention gave
        mlp_work=stream + more_wide * widest + weight,
    )


def _attention(model: DecoderConfig, layer: int, passes: Passes) -> tuple[int, int]:
    """Bytes that attention keeps between its norm and its output layer, and more while its backward pass runs.

    The one place that follows `neolm.models.attention`: change it with that.
    """
    B, T, W = passes.batch, passes.length, model.window(layer)
    token = B * model.hidden_size * passes.item  # of one position, in all sequences
    if W is None or T <= W or (passes.fused and not model.attention_dropout):
        kept, work = _whole(model, passes, T)
        rotary = model.position_embedding == "rotary" and not _explicit(model, passes, T)
        turned = (3 if passes.cpu else 2) if rotary else 0  # q and k; on a CPU the result in their layout too
        return kept + (turned + 1) * T * token, work  # the last: the result, in the layout of the output layer
    # the first W queries meet W keys; of the others, each block of W meets a copy of two blocks of keys and values
    blocks = -(-T // W) - 1
    kept, work = _whole(model, passes, W)
    if not _explicit(model, passes, W):
        kept += (3 * (T - W) + W) * token  # the first are a view of q, k and v of all positions
    tail = blocks * W * token
    if _explicit(model, passes, 2 * W):
        rest, more = _weights(model, passes, blocks * W * 2 * W)
    else:
        rest = tail + _sums(model, passes, blocks * W) + 2 * W * W * passes.item  # the last: the mask, as numbers
        more = 4 * tail
    return kept + 5 * tail + rest + T * token, work + more + 2 * tail


def _explicit(model: DecoderConfig, passes: Passes, keys: int) -> bool:
    """Whether the weights of attention to so many keys exist, because no fused kernel does it."""
    products = passes.precision == "bfloat16" and keys <= PRODUCT_KEYS
    return passes.cpu and (products or model.attention_dropout > 0)


def _whole(model: DecoderConfig, passes: Passes, T: int) -> tuple[int, int]:
    """Of causal attention of T queries to T keys: q, k, v and what the kernel keeps; and more on the way back."""
    three = 3 * passes.batch * T * model.hidden_size * passes.item
    if _explicit(model, passes, T):
        kept, work = _weights(model, passes, T * T)
        return three + kept, three + work
    return three + _sums(model, passes, T), three


def _weights(model: DecoderConfig, passes: Passes, pairs: int) -> tuple[int, int]:
    """Of attention weights of so many pairs; with dropout its factors too, and what they leave of the weights."""
    weights = passes.batch * model.num_heads * pairs * passes.item
    return weights * (3 if model.attention_dropout else 1), 2 * weights


def _sums(model: DecoderConfig, passes: Passes, queries: int) -> int:
    """The logarithm of each query's softmax denominator, in float32."""
    return 4 * passes.batch * model.num_heads * queries
