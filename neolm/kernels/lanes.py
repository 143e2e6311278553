"""Vectors of 16 lanes in LLVM's language: the few words that the kernels of this room are written in.

A function decorated with `emitted` writes LLVM instructions through `llvmlite`'s builder when Numba compiles a caller;
its arguments are 64-bit integers, mostly addresses. LLVM turns 16 lanes into what the processor has: one AVX-512
register, two of AVX, four of NEON. What it cannot find by itself, the dot products of bytes and of bfloat16, is named
here, with what to do where they are missing left to the kernels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
VOID = ir.VoidType()

Builder = Any  # llvmlite has no types to check against
Value = Any


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _features() -> set[str]:
    """What the processor that Numba compiles for can do, as LLVM names it."""
    listed = str(cpu_target.target_context.codegen()._tm_features)  # heeds NUMBA_CPU_FEATURES
    return {name[1:] for name in listed.split(",") if name.startswith("+")}


FEATURES = _features()
WIDE = "avx512f" in FEATURES  # 32 registers of 16 lanes
HAS_DOT_BYTES = "avx512vnni" in FEATURES
HAS_DOT_BF16 = "avx512bf16" in FEATURES


def emitted(emit: Callable[..., Value | None]) -> Any:
    """A function for Numba code whose body is what `emit(builder, *values)` writes; of int64, to int64 or nothing."""
    names = list(inspect.signature(emit).parameters)[1:]

    def define(context: Any, *given: Any) -> Any:
        def generate(context: Any, builder: Builder, signature: Any, values: Sequence[Value]) -> Value:
            value = emit(builder, *values)
            return context.get_dummy_value() if value is None else value

        result = types.void if inspect.signature(emit).return_annotation in (None, "None") else types.int64
        return result(*[types.int64] * len(names)), generate

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("context", *names)]
    define.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    define.__name__ = define.__qualname__ = emit.__name__
    define.__doc__ = emit.__doc__
    return intrinsic(define)


@intrinsic
def as_pointer(context: Any, address: Any) -> Any:
    """A pointer for `numba.carray` from an address (int64)."""

    def generate(context: Any, builder: Builder, signature: Any, values: Sequence[Value]) -> Value:
        return builder.inttoptr(values[0], I8.as_pointer())

    return types.voidptr(types.int64), generate


def lanes(element: Any, count: int = LANES) -> Any:
    """The type of `count` lanes of `element`."""
    return ir.VectorType(element, count)


def number(value: int) -> Value:
    """A constant of 64 bits."""
    return ir.Constant(I64, value)


def constant(element: Any, value: float) -> Value:
    """16 lanes of one constant."""
    return ir.Constant(lanes(element), [value] * LANES)


def load(builder: Builder, address: Value, offset: Value, kind: Any, align: int = 4) -> Value:
    """What lies `offset` bytes behind `address`."""
    pointer = builder.inttoptr(builder.add(address, offset), kind.as_pointer())
    value = builder.load(pointer)
    value.align = align
    return value


def load_first(builder: Builder, address: Value, offset: Value, element: Any, left: Value) -> Value:
    """16 lanes from memory, of which only the first `left` (32 bits) are read; the others are zero."""
    lane = ir.Constant(lanes(I32), list(range(LANES)))
    mask = builder.icmp_signed("<", lane, splat(builder, left))
    pointer = builder.inttoptr(builder.add(address, offset), lanes(element).as_pointer())
    name = f"llvm.masked.load.v16{'f32' if element is F32 else 'i32'}.p0"
    return call(builder, name, lanes(element), [pointer, ir.Constant(I32, 4), mask, constant(element, 0)])


def store(builder: Builder, address: Value, offset: Value, value: Value) -> None:
    """Put `value` `offset` bytes behind `address`."""
    pointer = builder.inttoptr(builder.add(address, offset), value.type.as_pointer())
    builder.store(value, pointer).align = 2


def call(builder: Builder, name: str, result: Any, arguments: Sequence[Value]) -> Value:
    """Call one of LLVM's intrinsics."""
    known = builder.module.globals
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = known[name] if name in known else ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def splat(builder: Builder, value: Value) -> Value:
    """One number in all lanes."""
    kind = lanes(value.type)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(lanes(I32), [0] * LANES))


def multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """A * b + c in 16 lanes of fp32, rounded once."""
    return call(builder, "llvm.fma.v16f32", lanes(F32), [a, b, c])


def total(builder: Builder, value: Value) -> Value:
    """The sum of 16 lanes of fp32, by halves: always in the same order."""
    count = LANES
    while count > 1:
        count //= 2
        nothing = ir.Constant(value.type, ir.Undefined)
        low = ir.Constant(lanes(I32, count), list(range(count)))
        high = ir.Constant(lanes(I32, count), list(range(count, 2 * count)))
        value = builder.fadd(builder.shuffle_vector(value, nothing, low), builder.shuffle_vector(value, nothing, high))
    return builder.extract_element(value, ir.Constant(I32, 0))


def totals(builder: Builder, values: Sequence[Value]) -> Value:
    """The sums of four times 16 lanes, as four lanes, each in the order of `total`."""

    def pick(a: Value, b: Value, places: Sequence[int]) -> Value:
        return builder.shuffle_vector(a, b, ir.Constant(lanes(I32, len(places)), list(places)))

    nothing = ir.Constant(lanes(F32), ir.Undefined)
    a, b, c, d = (builder.fadd(pick(value, nothing, range(8)), pick(value, nothing, range(8, 16))) for value in values)
    low, high = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
    ab, cd = (builder.fadd(pick(x, y, low), pick(x, y, high)) for x, y in ((a, b), (c, d)))
    even, odd = (0, 1, 4, 5, 8, 9, 12, 13), (2, 3, 6, 7, 10, 11, 14, 15)
    pairs = builder.fadd(pick(ab, cd, even), pick(ab, cd, odd))
    return builder.fadd(pick(pairs, pairs, (0, 2, 4, 6)), pick(pairs, pairs, (1, 3, 5, 7)))


def widen_bf16(builder: Builder, address: Value, offset: Value) -> Value:
    """16 bfloat16 from memory as fp32."""
    short = builder.zext(load(builder, address, offset, lanes(I16), 2), lanes(I32))
    return builder.bitcast(builder.shl(short, constant(I32, 16)), lanes(F32))


def narrow_to_bf16(builder: Builder, value: Value) -> Value:
    """16 fp32 as bfloat16 (16 bits each), rounded to nearest even."""
    bits = builder.bitcast(value, lanes(I32))
    even = builder.and_(builder.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = builder.add(builder.add(bits, constant(I32, 0x7FFF)), even)
    return builder.trunc(builder.lshr(rounded, constant(I32, 16)), lanes(I16))


def dot_bytes(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    """`sums` (16 x int32) + in each lane the products of its four unsigned and four signed bytes."""
    if binding.llvm_version_info >= (22,):  # there the bytes have the type of bytes
        unsigned, signed = (builder.bitcast(value, lanes(I8, 64)) for value in (unsigned, signed))
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", lanes(I32), [sums, unsigned, signed])


def dot_bf16(builder: Builder, sums: Value, a: Value, b: Value) -> Value:
    """`sums` (16 x fp32) + in each lane the products of its two bfloat16 of `a` and `b`."""
    a, b = (builder.bitcast(value, lanes(_BFloat(), 32)) for value in (a, b))
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", lanes(F32), [sums, a, b])


def loop(
    builder: Builder,
    count: Value,
    step: int,
    carried: Sequence[Value],
    body: Callable[[Value, list[Value]], list[Value]],
    start: Value | None = None,
) -> list[Value]:
    """`body(index, values)` for index = `start` (0), `step`, ... below `count`; it returns the next values."""
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    before = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(number(0) if start is None else start, before)
    values = [builder.phi(value.type) for value in carried]
    for value, first in zip(values, carried, strict=True):
        value.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    new = body(index, values)
    index.add_incoming(builder.add(index, number(step)), builder.block)
    for value, next_value in zip(values, new, strict=True):
        value.add_incoming(next_value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values
