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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from neolm.kernels import simd
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.simd import F16, F32, HAS_AVX512_BF16, HAS_VNNI, I32, LANES, Builder, Value


def _strided(builder: Builder, address: Value, stride: Value, count: int) -> list[Value]:
    return [builder.add(address, builder.mul(stride, simd.int64(index))) for index in range(count)]


def _plain_inputs(builder: Builder, bits: int, row: Value, offset: Value) -> list[Value]:
    """Load the activations of a packed row that belong to the 64 bytes of weights at `offset`."""
    if bits == 32 or HAS_AVX512_BF16:
        return [simd.load(builder, row, offset, simd.vector(F32 if bits == 32 else I32))]
    wide = builder.mul(offset, simd.int64(2))  # fp32 activations: of each 32 the even ones first
    return [simd.load(builder, row, builder.add(wide, simd.int64(at)), simd.vector(F32)) for at in (0, 64)]


def _add_products(builder: Builder, bits: int, weight: Value, inputs: list[Value], sum: Value) -> Value:
    """Add the products of 64 bytes of weights to `sum` (16 x fp32)."""
    if bits == 32:
        return simd.fma(builder, weight, inputs[0], sum)
    if HAS_AVX512_BF16:
        return simd.dot_bf16(builder, sum, weight, inputs[0])
    even = builder.bitcast(builder.shl(weight, simd.constant(I32, 16)), simd.vector(F32))
    odd = builder.bitcast(builder.and_(weight, simd.constant(I32, -65536)), simd.vector(F32))
    return simd.fma(builder, odd, inputs[1], simd.fma(builder, even, inputs[0], sum))


def plain_microkernel(bits: int, outputs: int, rows: int) -> Any:
    """Microkernel of `outputs` x `rows` for fp32 (32 bits) or bfloat16 (16 bits) weights; X is zero-padded to 32."""
    per_step = LANES * 32 // bits  # weights in 64 bytes

    @simd.llvm_function
    def microkernel(
        builder: Builder,
        w: Value,  # address of the first output's weights
        w_stride: Value,  # bytes from one output (packed: panel) to the next
        scales: Value,  # address of the first panel's; plain: unused
        k: Value,
        x: Value,  # packed by `neolm.kernels.matmul.pack_activations`
        x_stride: Value,
        y: Value,  # fp32
        y_stride: Value,
    ) -> None:
        weights, inputs = _strided(builder, w, w_stride, outputs), _strided(builder, x, x_stride, rows)

        def accumulate(read: Any, index: Value, sums: list[Value]) -> list[Value]:
            """Add the products of 64 bytes of each output's weights, from the input `index` on."""
            offset = builder.mul(index, simd.int64(bits // 8))
            activations = [_plain_inputs(builder, bits, row, offset) for row in inputs]
            read_weights = [read(row, offset) for row in weights]
            pairs = [(weight, values) for weight in read_weights for values in activations]
            return [_add_products(builder, bits, *pair, sum) for pair, sum in zip(pairs, sums, strict=True)]

        def read_all(row: Value, offset: Value) -> Value:
            return simd.load(builder, row, offset, simd.vector(element), bits // 8)

        def read_left(row: Value, offset: Value) -> Value:
            return simd.load_masked(builder, row, offset, element, left)

        element = F32 if bits == 32 else I32
        whole = builder.and_(k, simd.int64(-per_step))
        sums = [simd.constant(F32, 0.0)] * (outputs * rows)
        sums = simd.loop(builder, whole, per_step, sums, partial(accumulate, read_all))
        left = builder.trunc(builder.sub(k, whole), I32)
        if bits == 16:  # pairs: the number of inputs is even
            left = builder.lshr(left, ir.Constant(I32, 1))
        # At most one iteration.
        sums = simd.loop(builder, k, per_step, sums, partial(accumulate, read_left), start=whole)
        for m in range(rows):
            row = builder.mul(y_stride, simd.int64(m))
            if outputs == 4:
                simd.store(builder, y, row, simd.horizontal_sums(builder, sums[m::rows]))
                continue
            for n, sum in enumerate(sums[m::rows]):
                address = builder.add(row, simd.int64(4 * n))
                simd.store(builder, y, address, simd.horizontal_sum(builder, sum))

    return microkernel


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
        start = self.builder.mul(self.index, simd.int64(64 * steps))
        low_half = simd.constant(I32, 0x0F0F0F0F)
        for step in range(steps):
            at = self.builder.add(start, simd.int64(64 * step))
            for panel, address in enumerate(self.weights):
                value = simd.load(self.builder, address, at, simd.vector(I32))
                if self.bits == 8:
                    yield panel, 4 * step, value
                else:
                    yield panel, 8 * step, self.builder.and_(value, low_half)
                    upper = self.builder.lshr(value, simd.constant(I32, 4))
                    yield panel, 8 * step + 4, self.builder.and_(upper, low_half)

    def scale(self, panel: int) -> Value:
        """Scales of the 16 outputs of a panel."""
        at = self.builder.mul(self.index, simd.int64(2 * PANEL))
        halves = simd.load(self.builder, self.scales[panel], at, simd.vector(F16), 2)
        return self.builder.fpext(halves, simd.vector(F32))

    def add_int8(self, sums: list[Value]) -> list[Value]:
        """Add this group's products to `sums`: exact integer dot products, scaled at the end."""
        builder, rows = self.builder, len(self.inputs)
        high = [simd.constant(I32, 0)] * len(sums)
        low = list(high)
        start = builder.mul(self.index, simd.int64(GROUP))
        for panel, first, part in self.vectors():
            place = builder.add(start, simd.int64(first))
            for m, row in enumerate(self.inputs):
                i = panel * rows + m
                for sums_of, at in ((high, place), (low, builder.add(place, self.k))):
                    inputs = simd.splat(builder, simd.load(builder, row, at, I32))
                    sums_of[i] = simd.dot_int8(builder, sums_of[i], part, inputs)
        pair = builder.add(builder.mul(self.k, simd.int64(2)), builder.mul(self.index, simd.int64(8)))
        middle = simd.constant(I32, 1 << (self.bits - 1))
        new = []
        for i, sum in enumerate(sums):
            row = self.inputs[i % rows]
            factor = simd.splat(builder, simd.load(builder, row, pair, F32))
            offset = simd.splat(builder, simd.load(builder, row, builder.add(pair, simd.int64(4)), I32))
            whole = builder.add(builder.shl(high[i], simd.constant(I32, 8)), low[i])
            whole = builder.sub(whole, builder.mul(offset, middle))
            value = builder.sitofp(whole, simd.vector(F32))
            new.append(simd.fma(builder, value, builder.fmul(self.scale(i // rows), factor), sum))
        return new

    def add_fp32(self, sums: list[Value]) -> list[Value]:
        """Add this group's products to `sums` without VNNI: weights are widened to fp32."""
        builder, rows = self.builder, len(self.inputs)
        middle = simd.constant(F32, -float(1 << (self.bits - 1)))
        offset = builder.add(builder.mul(self.k, simd.int64(4)), builder.mul(self.index, simd.int64(4)))
        sums_of_inputs = [simd.splat(builder, simd.load(builder, row, offset, F32)) for row in self.inputs]
        products = [builder.fmul(value, middle) for value in sums_of_inputs] * len(self.weights)
        start = builder.mul(self.index, simd.int64(4 * GROUP))
        for panel, first, part in self.vectors():
            for byte in range(4):
                level = builder.and_(builder.lshr(part, simd.constant(I32, 8 * byte)), simd.constant(I32, 255))
                weight = builder.uitofp(level, simd.vector(F32))
                place = builder.add(start, simd.int64(4 * (first + byte)))
                for m, row in enumerate(self.inputs):
                    i = panel * rows + m
                    one = simd.splat(builder, simd.load(builder, row, place, F32))
                    products[i] = simd.fma(builder, weight, one, products[i])
        return [
            simd.fma(builder, product, self.scale(i // rows), sum)
            for i, (product, sum) in enumerate(zip(products, sums, strict=True))
        ]


def packed_microkernel(bits: int, outputs: int, rows: int) -> Any:
    """Microkernel of `outputs` (a multiple of 16) x `rows` for packed weights of 8 or 4 bits.

    A packed row of X, with K padded to whole groups, is with VNNI: K bytes hi, K bytes lo, and for each group a pair
    (fp32 scale, int32 sum); otherwise K fp32 and for each group the fp32 sum.
    """
    panels = outputs // PANEL

    @simd.llvm_function
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
        groups = builder.sdiv(builder.add(k, simd.int64(GROUP - 1)), simd.int64(GROUP))
        weights = _strided(builder, w, w_stride, panels)
        factors = _strided(builder, scales, builder.mul(groups, simd.int64(2 * PANEL)), panels)
        inputs = _strided(builder, x, x_stride, rows)
        padded = builder.mul(groups, simd.int64(GROUP))

        def add(index: Value, sums: list[Value]) -> list[Value]:
            group = _Group(builder, bits, index, weights, factors, inputs, padded)
            return group.add_int8(sums) if HAS_VNNI else group.add_fp32(sums)

        sums = simd.loop(builder, groups, 1, [simd.constant(F32, 0.0)] * (panels * rows), add)
        for i, sum in enumerate(sums):
            row = builder.mul(y_stride, simd.int64(i % rows))
            simd.store(builder, y, builder.add(row, simd.int64(4 * PANEL * (i // rows))), sum)

    return microkernel
