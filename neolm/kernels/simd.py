"""SIMD vectors of 16 lanes in LLVM IR, the building blocks of the kernels.

A function decorated with `llvm_function` emits LLVM instructions through `llvmlite`'s builder when Numba compiles a
caller; its arguments are 64-bit integers, mostly addresses. LLVM maps 16 lanes to the CPU's registers: one of AVX-512,
two of AVX, four of NEON. The dot products of bytes (VNNI) and of bfloat16 are called by their intrinsics; kernels
check `HAS_VNNI` and `HAS_AVX512_BF16` first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import binding, ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
VOID = ir.VoidType()

Builder = Any  # llvmlite is untyped
Value = Any


class _BFloat(ir.Type):
    """LLVM's bfloat type, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


# CPU features that Numba compiles for, by their LLVM names; respects NUMBA_CPU_FEATURES.
_listed_features = str(cpu_target.target_context.codegen()._tm_features).split(",")
FEATURES = {name[1:] for name in _listed_features if name.startswith("+")}
HAS_AVX512 = "avx512f" in FEATURES  # 32 registers of 16 fp32
HAS_VNNI = "avx512vnni" in FEATURES
HAS_AVX512_BF16 = "avx512bf16" in FEATURES


def llvm_function(emit: Callable[..., Value | None]) -> Any:
    """Turn `emit(builder, *values)` into a function of int64 arguments for Numba code; it returns int64 or nothing."""
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


def conversion(source: Any, result: Any, emit: Callable[[Builder, Value], Value]) -> Any:
    """Turn `emit(builder, value)` into a function for Numba code from one type to another."""

    @intrinsic
    def convert(context: Any, value: Any) -> Any:
        return result(source), lambda context, builder, signature, values: emit(builder, values[0])

    return convert


# From an address to a pointer for `numba.carray`.
as_pointer = conversion(types.int64, types.voidptr, lambda builder, address: builder.inttoptr(address, I8.as_pointer()))


def vector(element: Any, count: int = LANES) -> Any:
    """Vector type of `count` lanes of `element`."""
    return ir.VectorType(element, count)


def int64(value: int) -> Value:
    """A 64-bit integer constant."""
    return ir.Constant(I64, value)


def constant(element: Any, value: float) -> Value:
    """A vector of 16 equal constants."""
    return ir.Constant(vector(element), [value] * LANES)


def load(builder: Builder, address: Value, offset: Value, kind: Any, align: int = 4) -> Value:
    """Load a value from `address` + `offset` bytes."""
    pointer = builder.inttoptr(builder.add(address, offset), kind.as_pointer())
    value = builder.load(pointer)
    value.align = align
    return value


def load_masked(builder: Builder, address: Value, offset: Value, element: Any, left: Value) -> Value:
    """Load the first `left` (int32) of 16 lanes; the other lanes are zero and their memory is not read."""
    lane = ir.Constant(vector(I32), list(range(LANES)))
    mask = builder.icmp_signed("<", lane, splat(builder, left))
    pointer = builder.inttoptr(builder.add(address, offset), vector(element).as_pointer())
    name = f"llvm.masked.load.v16{'f32' if element is F32 else 'i32'}.p0"
    return call(builder, name, vector(element), [pointer, ir.Constant(I32, 4), mask, constant(element, 0)])


def store(builder: Builder, address: Value, offset: Value, value: Value) -> None:
    """Store `value` at `address` + `offset` bytes."""
    pointer = builder.inttoptr(builder.add(address, offset), value.type.as_pointer())
    builder.store(value, pointer).align = 2


def call(builder: Builder, name: str, result: Any, arguments: Sequence[Value]) -> Value:
    """Call the LLVM intrinsic `name`."""
    known = builder.module.globals
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = known[name] if name in known else ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def splat(builder: Builder, value: Value) -> Value:
    """Broadcast one number to all lanes."""
    kind = vector(value.type)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(vector(I32), [0] * LANES))


def fma(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """Fused a * b + c in 16 lanes of fp32."""
    return call(builder, "llvm.fma.v16f32", vector(F32), [a, b, c])


def _pick(builder: Builder, a: Value, b: Value, lanes: Sequence[int]) -> Value:
    return builder.shuffle_vector(a, b, ir.Constant(vector(I32, len(lanes)), list(lanes)))


def horizontal_sum(builder: Builder, value: Value) -> Value:
    """Sum of 16 lanes of fp32, by halves: the order is always the same."""
    for half in (8, 4, 2, 1):
        low, high = (_pick(builder, value, value, range(at, at + half)) for at in (0, half))
        value = builder.fadd(low, high)
    return builder.extract_element(value, ir.Constant(I32, 0))


def horizontal_sums(builder: Builder, values: Sequence[Value]) -> Value:
    """Sums of four vectors of 16 lanes as one vector of four, each in the order of `horizontal_sum`."""
    pick = partial(_pick, builder)
    a, b, c, d = (builder.fadd(pick(value, value, range(8)), pick(value, value, range(8, 16))) for value in values)
    low, high = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
    ab, cd = (builder.fadd(pick(x, y, low), pick(x, y, high)) for x, y in ((a, b), (c, d)))
    even, odd = (0, 1, 4, 5, 8, 9, 12, 13), (2, 3, 6, 7, 10, 11, 14, 15)
    pairs = builder.fadd(pick(ab, cd, even), pick(ab, cd, odd))
    return builder.fadd(pick(pairs, pairs, (0, 2, 4, 6)), pick(pairs, pairs, (1, 3, 5, 7)))


def widen_bf16(builder: Builder, address: Value, offset: Value) -> Value:
    """Load 16 bfloat16 numbers as fp32."""
    short = builder.zext(load(builder, address, offset, vector(I16), 2), vector(I32))
    return builder.bitcast(builder.shl(short, constant(I32, 16)), vector(F32))


def narrow_to_bf16(builder: Builder, value: Value) -> Value:
    """Round 16 fp32 numbers to bfloat16 (int16), to nearest even."""
    bits = builder.bitcast(value, vector(I32))
    even = builder.and_(builder.lshr(bits, constant(I32, 16)), constant(I32, 1))
    rounded = builder.add(builder.add(bits, constant(I32, 0x7FFF)), even)
    return builder.trunc(builder.lshr(rounded, constant(I32, 16)), vector(I16))


def dot_int8(builder: Builder, sums: Value, unsigned: Value, signed: Value) -> Value:
    """`sums` (16 x int32) plus, in each lane, the dot product of four unsigned and four signed bytes."""
    if binding.llvm_version_info >= (22,):  # takes vectors of bytes
        unsigned, signed = (builder.bitcast(value, vector(I8, 64)) for value in (unsigned, signed))
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", vector(I32), [sums, unsigned, signed])


def dot_bf16(builder: Builder, sums: Value, a: Value, b: Value) -> Value:
    """`sums` (16 x fp32) plus, in each lane, the dot product of two bfloat16 of `a` and `b`."""
    a, b = (builder.bitcast(value, vector(_BFloat(), 32)) for value in (a, b))
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", vector(F32), [sums, a, b])


def loop(
    builder: Builder,
    count: Value,
    step: int,
    carried: Sequence[Value],
    body: Callable[[Value, list[Value]], list[Value]],
    start: Value | None = None,
) -> list[Value]:
    """Emit a loop over index = `start`, `start` + `step`, ... < `count`; `body(index, values)` returns new values."""
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    before = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(int64(0) if start is None else start, before)
    values = [builder.phi(value.type) for value in carried]
    for value, first in zip(values, carried, strict=True):
        value.add_incoming(first, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    new = body(index, values)
    index.add_incoming(builder.add(index, int64(step)), builder.block)
    for value, next_value in zip(values, new, strict=True):
        value.add_incoming(next_value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return values
