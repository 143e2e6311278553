"""Tiles of a matrix product Y = X W^T for few rows of X: a few outputs of a few rows, sums kept in registers.

Each weight is read once for all columns of the tile. A sum is always taken in the same order, whatever the tile, so
that a row gets the same bits alone and among others. Formats of W (N outputs, K inputs):

- fp32 and bfloat16: as torch keeps them, row by row. bfloat16 is multiplied with bfloat16 activations where the
  processor has such dot products, else widened and multiplied with fp32 ones.
- int8 and int4: `neolm.kernels.packing`. Where the processor multiplies bytes, an activation is two bytes (16 bits,
  256 hi + lo, scaled by group), and sums are whole numbers, exact; else weights are widened to fp32.

`neolm.kernels.products` prepares X and calls the tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir

from neolm.kernels.lanes import (
    F16,
    F32,
    HAS_DOT_BF16,
    HAS_DOT_BYTES,
    I32,
    LANES,
    Builder,
    Value,
    constant,
    dot_bf16,
    dot_bytes,
    emitted,
    lanes,
    load,
    load_first,
    loop,
    multiply_add,
    number,
    splat,
    store,
    total,
    totals,
)
from neolm.kernels.packing import GROUP, PANEL

PIECE = 64  # bytes that meet in one register


def _strided(builder: Builder, address: Value, stride: Value, count: int) -> list[Value]:
    return [builder.add(address, builder.mul(stride, number(index))) for index in range(count)]


def _plain_inputs(builder: Builder, bits: int, row: Value, offset: Value) -> list[Value]:
    """What of a prepared row of X meets the 64 bytes of weights at `offset`."""
    if bits == 32 or HAS_DOT_BF16:
        return [load(builder, row, offset, lanes(F32 if bits == 32 else I32))]
    wide = builder.mul(offset, number(2))  # fp32 activations: the even ones of 32, then the odd ones
    return [load(builder, row, builder.add(wide, number(at)), lanes(F32)) for at in (0, 64)]


def _add_products(builder: Builder, bits: int, weight: Value, inputs: list[Value], sum: Value) -> Value:
    """`sum` (16 x fp32) and the products of 64 bytes of weights."""
    if bits == 32:
        return multiply_add(builder, weight, inputs[0], sum)
    if HAS_DOT_BF16:
        return dot_bf16(builder, sum, weight, inputs[0])
    even = builder.bitcast(builder.shl(weight, constant(I32, 16)), lanes(F32))
    odd = builder.bitcast(builder.and_(weight, constant(I32, -65536)), lanes(F32))
    return multiply_add(builder, odd, inputs[1], multiply_add(builder, even, inputs[0], sum))


class Operands(NamedTuple):
    """What every tile is called with: addresses, strides in bytes, and K."""

    w: Value  # the first output's weights
    w_stride: Value  # from one output to the next; packed: from one block of outputs
    scales: Value  # of the first block; plain: unused
    k: Value
    x: Value  # as `neolm.kernels.products.prepare` leaves it
    x_stride: Value
    y: Value  # fp32
    y_stride: Value


def _of_operands(write: Callable[[Builder, Operands], None]) -> Any:
    """A function for Numba code that takes the operands one by one."""

    @emitted
    def tile(
        builder: Builder,
        w: Value,
        w_stride: Value,
        scales: Value,
        k: Value,
        x: Value,
        x_stride: Value,
        y: Value,
        y_stride: Value,
    ) -> None:
        write(builder, Operands(w, w_stride, scales, k, x, x_stride, y, y_stride))

    return tile


def plain_tile(bits: int, rows: int, columns: int) -> Any:
    """A tile of `rows` outputs and `columns` rows of X, for fp32 (32 bits) or bfloat16 (16 bits) weights.

    X is padded with zeros to 32 columns: fp32 as it is, bfloat16 as `products.prepare` puts it.
    """
    per_step = LANES * 32 // bits  # weights in 64 bytes

    def tile(builder: Builder, on: Operands) -> None:
        weights, inputs = _strided(builder, on.w, on.w_stride, rows), _strided(builder, on.x, on.x_stride, columns)

        def multiply(offset: Value, read: Any, sums: list[Value]) -> list[Value]:
            """Add the products of the 64 bytes of each row that lie at `offset`."""
            vectors = [_plain_inputs(builder, bits, row, offset) for row in inputs]
            read_weights = [read(row, offset) for row in weights]
            pairs = [(weight, vector) for weight in read_weights for vector in vectors]
            return [_add_products(builder, bits, *pair, sum) for pair, sum in zip(pairs, sums, strict=True)]

        element = F32 if bits == 32 else I32
        whole = builder.and_(on.k, number(-per_step))
        sums = loop(
            builder,
            whole,
            per_step,
            [constant(F32, 0.0)] * (rows * columns),
            lambda index, sums: multiply(
                builder.mul(index, number(bits // 8)),
                lambda row, offset: load(builder, row, offset, lanes(element), bits // 8),
                sums,
            ),
        )
        left = builder.trunc(builder.sub(on.k, whole), I32)
        if bits == 16:  # pairs: the number of inputs is even
            left = builder.lshr(left, ir.Constant(I32, 1))
        sums = loop(  # once, or not at all
            builder,
            on.k,
            per_step,
            sums,
            lambda index, sums: multiply(
                builder.mul(index, number(bits // 8)),
                lambda row, offset: load_first(builder, row, offset, element, left),
                sums,
            ),
            start=whole,
        )
        for c in range(columns):
            row = builder.mul(on.y_stride, number(c))
            if rows == 4:
                store(builder, on.y, row, totals(builder, sums[c::columns]))
                continue
            for r in range(rows):
                store(builder, on.y, builder.add(row, number(4 * r)), total(builder, sums[r * columns + c]))

    return _of_operands(tile)


@dataclass(frozen=True)
class _Group:
    """One group of a packed tile: `blocks` of weights against `columns` of X, while LLVM is written."""

    builder: Builder
    bits: int
    number: Value  # of the group
    weights: list[Value]  # address of each block's first group
    scales: list[Value]
    inputs: list[Value]  # address of each row of X
    k: Value  # inputs, padded to groups

    def pieces(self) -> Iterator[tuple[int, int, Value]]:
        """(block, first of the four inputs, their bytes for 16 outputs) of the whole group, read once each."""
        steps = GROUP * self.bits // 32
        start = self.builder.mul(self.number, number(steps * PIECE))
        low_half = constant(I32, 0x0F0F0F0F)
        for step in range(steps):
            at = self.builder.add(start, number(step * PIECE))
            for block, address in enumerate(self.weights):
                value = load(self.builder, address, at, lanes(I32))
                if self.bits == 8:
                    yield block, 4 * step, value
                else:
                    yield block, 8 * step, self.builder.and_(value, low_half)
                    upper = self.builder.lshr(value, constant(I32, 4))
                    yield block, 8 * step + 4, self.builder.and_(upper, low_half)

    def scale(self, block: int) -> Value:
        """The scales of 16 outputs."""
        at = self.builder.mul(self.number, number(2 * PANEL))
        return self.builder.fpext(load(self.builder, self.scales[block], at, lanes(F16), 2), lanes(F32))

    def add_by_bytes(self, sums: list[Value]) -> list[Value]:
        """`sums` and this group's products: whole numbers of bytes times bytes, scaled at the end."""
        builder, columns = self.builder, len(self.inputs)
        high = [constant(I32, 0)] * len(sums)
        low = list(high)
        start = builder.mul(self.number, number(GROUP))
        for block, first, part in self.pieces():
            place = builder.add(start, number(first))
            for c, row in enumerate(self.inputs):
                i = block * columns + c
                high[i] = dot_bytes(builder, high[i], part, splat(builder, load(builder, row, place, I32)))
                other = load(builder, row, builder.add(place, self.k), I32)
                low[i] = dot_bytes(builder, low[i], part, splat(builder, other))
        pair = builder.add(builder.mul(self.k, number(2)), builder.mul(self.number, number(8)))
        middle = constant(I32, 1 << (self.bits - 1))
        new = []
        for i, sum in enumerate(sums):
            row = self.inputs[i % columns]
            factor = splat(builder, load(builder, row, pair, F32))
            offset = splat(builder, load(builder, row, builder.add(pair, number(4)), I32))
            whole = builder.add(builder.shl(high[i], constant(I32, 8)), low[i])
            whole = builder.sub(whole, builder.mul(offset, middle))
            value = builder.sitofp(whole, lanes(F32))
            new.append(multiply_add(builder, value, builder.fmul(self.scale(i // columns), factor), sum))
        return new

    def add_by_floats(self, sums: list[Value]) -> list[Value]:
        """The same where the processor has no products of bytes: weights are widened to fp32."""
        builder, columns = self.builder, len(self.inputs)
        middle = constant(F32, -float(1 << (self.bits - 1)))
        offset = builder.add(builder.mul(self.k, number(4)), builder.mul(self.number, number(4)))
        offsets = [builder.fmul(splat(builder, load(builder, row, offset, F32)), middle) for row in self.inputs]
        products = offsets * len(self.weights)
        start = builder.mul(self.number, number(4 * GROUP))
        for block, first, part in self.pieces():
            for byte in range(4):
                level = builder.and_(builder.lshr(part, constant(I32, 8 * byte)), constant(I32, 255))
                weight = builder.uitofp(level, lanes(F32))
                place = builder.add(start, number(4 * (first + byte)))
                for c, row in enumerate(self.inputs):
                    i = block * columns + c
                    one = splat(builder, load(builder, row, place, F32))
                    products[i] = multiply_add(builder, weight, one, products[i])
        return [
            multiply_add(builder, product, self.scale(i // columns), sum)
            for i, (product, sum) in enumerate(zip(products, sums, strict=True))
        ]


def packed_tile(bits: int, blocks: int, columns: int) -> Any:
    """A tile of `blocks` times 16 outputs and `columns` rows of X, for packed weights of 8 or 4 bits.

    A row of X is, for K inputs padded to whole groups: where bytes are multiplied, K bytes hi, K bytes lo, and a pair
    (fp32 scale, int32 sum) for each group; else K fp32 and for each group the fp32 sum.
    """

    def tile(builder: Builder, on: Operands) -> None:
        groups = builder.sdiv(builder.add(on.k, number(GROUP - 1)), number(GROUP))
        weights = _strided(builder, on.w, on.w_stride, blocks)
        factors = _strided(builder, on.scales, builder.mul(groups, number(2 * PANEL)), blocks)
        inputs = _strided(builder, on.x, on.x_stride, columns)
        padded = builder.mul(groups, number(GROUP))

        def add(index: Value, sums: list[Value]) -> list[Value]:
            group = _Group(builder, bits, index, weights, factors, inputs, padded)
            return group.add_by_bytes(sums) if HAS_DOT_BYTES else group.add_by_floats(sums)

        sums = loop(builder, groups, 1, [constant(F32, 0.0)] * (blocks * columns), add)
        for i, sum in enumerate(sums):
            row = builder.mul(on.y_stride, number(i % columns))
            store(builder, on.y, builder.add(row, number(4 * PANEL * (i // columns))), sum)

    return _of_operands(tile)
