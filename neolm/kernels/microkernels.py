"""Microkernels of the matrix product Y = X W^T: each computes a tile of Y, accumulated in registers (BLIS).

Each weight is read once for all rows of the tile. Every element of Y is summed in the same order in every microkernel,
so that a row has the same bits alone and in a batch. Formats of W (N outputs, K inputs):

- fp32 and bfloat16: torch's row-major layout. bfloat16 is multiplied with bfloat16 activations if the CPU has such dot
  products; otherwise it is widened and multiplied with fp32 activations.
- int8 and int4: `neolm.kernels.packing`. With VNNI an activation is two bytes (16 bits, 256 hi + lo, scaled by group)
  and the integer sums are exact; otherwise weights are widened to fp32.

`neolm.kernels.matmul` packs X and calls the microkernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir

from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.simd import (
    F16,
    F32,
    HAS_AVX512_BF16,
    HAS_VNNI,
    I32,
    LANES,
    Builder,
    Value,
    dot_bf16,
    dot_int8,
    fma,
    horizontal_sum,
    horizontal_sums,
    int64,
    llvm_function,
    load,
    load_masked,
    loop,
    splat,
    splat_constant,
    store,
    vector,
)

VECTOR_BYTES = 64


def _strided(builder: Builder, address: Value, stride: Value, count: int) -> list[Value]:
    return [builder.add(address, builder.mul(stride, int64(index))) for index in range(count)]


def _plain_inputs(builder: Builder, bits: int, row: Value, offset: Value) -> list[Value]:
    """Load the activations of a packed row that belong to the 64 bytes of weights at `offset`."""
    if bits == 32 or HAS_AVX512_BF16:
        return [load(builder, row, offset, vector(F32 if bits == 32 else I32))]
    wide = builder.mul(offset, int64(2))  # fp32 activations: of each 32 the even ones first
    return [load(builder, row, builder.add(wide, int64(at)), vector(F32)) for at in (0, 64)]


def _add_products(builder: Builder, bits: int, weight: Value, inputs: list[Value], sum: Value) -> Value:
    """Add the products of 64 bytes of weights to `sum` (16 x fp32)."""
    if bits == 32:
        return fma(builder, weight, inputs[0], sum)
    if HAS_AVX512_BF16:
        return dot_bf16(builder, sum, weight, inputs[0])
    even = builder.bitcast(builder.shl(weight, splat_constant(I32, 16)), vector(F32))
    odd = builder.bitcast(builder.and_(weight, splat_constant(I32, -65536)), vector(F32))
    return fma(builder, odd, inputs[1], fma(builder, even, inputs[0], sum))


class Operands(NamedTuple):
    """Arguments of a microkernel: addresses, strides in bytes, and K."""

    w: Value  # weights of the first output
    w_stride: Value  # from one output (packed: panel) to the next
    scales: Value  # of the first panel; plain: unused
    k: Value
    x: Value  # packed by `neolm.kernels.matmul.pack_activations`
    x_stride: Value
    y: Value  # fp32
    y_stride: Value


def _microkernel(emit: Callable[[Builder, Operands], None]) -> Any:
    """Turn `emit` into a function for Numba code that takes the operands one by one."""

    @llvm_function
    def microkernel(
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
        emit(builder, Operands(w, w_stride, scales, k, x, x_stride, y, y_stride))

    return microkernel


def plain_microkernel(bits: int, outputs: int, rows: int) -> Any:
    """Microkernel of `outputs` x `rows` for fp32 (32 bits) or bfloat16 (16 bits) weights; X is zero-padded to 32."""
    per_step = LANES * 32 // bits  # weights in 64 bytes

    def emit(builder: Builder, on: Operands) -> None:
        weights, inputs = _strided(builder, on.w, on.w_stride, outputs), _strided(builder, on.x, on.x_stride, rows)

        def accumulate(offset: Value, read: Any, sums: list[Value]) -> list[Value]:
            """Add the products of the 64 bytes of each output's weights at `offset`."""
            activations = [_plain_inputs(builder, bits, row, offset) for row in inputs]
            read_weights = [read(row, offset) for row in weights]
            pairs = [(weight, values) for weight in read_weights for values in activations]
            return [_add_products(builder, bits, *pair, sum) for pair, sum in zip(pairs, sums, strict=True)]

        element = F32 if bits == 32 else I32
        whole = builder.and_(on.k, int64(-per_step))
        sums = loop(
            builder,
            whole,
            per_step,
            [splat_constant(F32, 0.0)] * (outputs * rows),
            lambda index, sums: accumulate(
                builder.mul(index, int64(bits // 8)),
                lambda row, offset: load(builder, row, offset, vector(element), bits // 8),
                sums,
            ),
        )
        left = builder.trunc(builder.sub(on.k, whole), I32)
        if bits == 16:  # pairs: the int64 of inputs is even
            left = builder.lshr(left, ir.Constant(I32, 1))
        sums = loop(  # at most one iteration
            builder,
            on.k,
            per_step,
            sums,
            lambda index, sums: accumulate(
                builder.mul(index, int64(bits // 8)),
                lambda row, offset: load_masked(builder, row, offset, element, left),
                sums,
            ),
            start=whole,
        )
        for m in range(rows):
            row = builder.mul(on.y_stride, int64(m))
            if outputs == 4:
                store(builder, on.y, row, horizontal_sums(builder, sums[m::rows]))
                continue
            for n in range(outputs):
                store(builder, on.y, builder.add(row, int64(4 * n)), horizontal_sum(builder, sums[n * rows + m]))

    return _microkernel(emit)


@dataclass(frozen=True)
class _Group:
    """Emits the code for one group of inputs in a packed microkernel."""

    builder: Builder
    bits: int
    index: Value  # of the group
    weights: list[Value]  # address of each panel's first group
    scales: list[Value]
    inputs: list[Value]  # address of each row of X
    k: Value  # K padded to whole groups

    def vectors(self) -> Iterator[tuple[int, int, Value]]:
        """Load the group: (panel, first of four inputs, their bytes for 16 outputs), each weight once."""
        steps = GROUP * self.bits // 32
        start = self.builder.mul(self.index, int64(steps * VECTOR_BYTES))
        low_half = splat_constant(I32, 0x0F0F0F0F)
        for step in range(steps):
            at = self.builder.add(start, int64(step * VECTOR_BYTES))
            for panel, address in enumerate(self.weights):
                value = load(self.builder, address, at, vector(I32))
                if self.bits == 8:
                    yield panel, 4 * step, value
                else:
                    yield panel, 8 * step, self.builder.and_(value, low_half)
                    upper = self.builder.lshr(value, splat_constant(I32, 4))
                    yield panel, 8 * step + 4, self.builder.and_(upper, low_half)

    def scale(self, panel: int) -> Value:
        """Scales of the 16 outputs of a panel."""
        at = self.builder.mul(self.index, int64(2 * PANEL))
        return self.builder.fpext(load(self.builder, self.scales[panel], at, vector(F16), 2), vector(F32))

    def add_int8(self, sums: list[Value]) -> list[Value]:
        """Add this group's products to `sums`: exact integer dot products, scaled at the end."""
        builder, rows = self.builder, len(self.inputs)
        high = [splat_constant(I32, 0)] * len(sums)
        low = list(high)
        start = builder.mul(self.index, int64(GROUP))
        for panel, first, part in self.vectors():
            place = builder.add(start, int64(first))
            for m, row in enumerate(self.inputs):
                i = panel * rows + m
                high[i] = dot_int8(builder, high[i], part, splat(builder, load(builder, row, place, I32)))
                other = load(builder, row, builder.add(place, self.k), I32)
                low[i] = dot_int8(builder, low[i], part, splat(builder, other))
        pair = builder.add(builder.mul(self.k, int64(2)), builder.mul(self.index, int64(8)))
        middle = splat_constant(I32, 1 << (self.bits - 1))
        new = []
        for i, sum in enumerate(sums):
            row = self.inputs[i % rows]
            factor = splat(builder, load(builder, row, pair, F32))
            offset = splat(builder, load(builder, row, builder.add(pair, int64(4)), I32))
            whole = builder.add(builder.shl(high[i], splat_constant(I32, 8)), low[i])
            whole = builder.sub(whole, builder.mul(offset, middle))
            value = builder.sitofp(whole, vector(F32))
            new.append(fma(builder, value, builder.fmul(self.scale(i // rows), factor), sum))
        return new

    def add_fp32(self, sums: list[Value]) -> list[Value]:
        """Add this group's products to `sums` without VNNI: weights are widened to fp32."""
        builder, rows = self.builder, len(self.inputs)
        middle = splat_constant(F32, -float(1 << (self.bits - 1)))
        offset = builder.add(builder.mul(self.k, int64(4)), builder.mul(self.index, int64(4)))
        offsets = [builder.fmul(splat(builder, load(builder, row, offset, F32)), middle) for row in self.inputs]
        products = offsets * len(self.weights)
        start = builder.mul(self.index, int64(4 * GROUP))
        for panel, first, part in self.vectors():
            for byte in range(4):
                level = builder.and_(builder.lshr(part, splat_constant(I32, 8 * byte)), splat_constant(I32, 255))
                weight = builder.uitofp(level, vector(F32))
                place = builder.add(start, int64(4 * (first + byte)))
                for m, row in enumerate(self.inputs):
                    i = panel * rows + m
                    one = splat(builder, load(builder, row, place, F32))
                    products[i] = fma(builder, weight, one, products[i])
        return [
            fma(builder, product, self.scale(i // rows), sum)
            for i, (product, sum) in enumerate(zip(products, sums, strict=True))
        ]


def packed_microkernel(bits: int, panels: int, rows: int) -> Any:
    """Microkernel of `panels` x 16 outputs and `rows`, for packed weights of 8 or 4 bits.

    A packed row of X, with K padded to whole groups, is with VNNI: K bytes hi, K bytes lo, and for each group a pair
    (fp32 scale, int32 sum); otherwise K fp32 and for each group the fp32 sum.
    """

    def emit(builder: Builder, on: Operands) -> None:
        groups = builder.sdiv(builder.add(on.k, int64(GROUP - 1)), int64(GROUP))
        weights = _strided(builder, on.w, on.w_stride, panels)
        factors = _strided(builder, on.scales, builder.mul(groups, int64(2 * PANEL)), panels)
        inputs = _strided(builder, on.x, on.x_stride, rows)
        padded = builder.mul(groups, int64(GROUP))

        def add(index: Value, sums: list[Value]) -> list[Value]:
            group = _Group(builder, bits, index, weights, factors, inputs, padded)
            return group.add_int8(sums) if HAS_VNNI else group.add_fp32(sums)

        sums = loop(builder, groups, 1, [splat_constant(F32, 0.0)] * (panels * rows), add)
        for i, sum in enumerate(sums):
            row = builder.mul(on.y_stride, int64(i % rows))
            store(builder, on.y, builder.add(row, int64(4 * PANEL * (i // rows))), sum)

    return _microkernel(emit)
