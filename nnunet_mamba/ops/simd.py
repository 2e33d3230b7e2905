"""Rows of vectors for numba: arithmetic on memory, emitted as LLVM vector instructions.

numba's own loop vectoriser is fragile (one alias check too many and a loop runs scalar). Here a row operation
is written once as arithmetic on `Vec` values and becomes straight vector code on any CPU that LLVM knows.
Arguments are addresses (int64) of contiguous float32 or float64 values; a `tag` argument carries the type.

    @row_operation
    def scaled(row, width, x, y):            # in numba: scaled(tag, width, address_of_x, address_of_y)
        for at in row.lanes(width):
            row.store(y, at, row.load(x, at) * 2.0)

`width` counts values and is a multiple of `VECTOR`. No fast-math: NaN in gives NaN out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_AVX512 = llvm.get_host_cpu_features().get("avx512f", False)
VECTOR = 16  # every row width is a multiple of this
CACHE_LINE = 64  # bytes
LANES = 16 if _AVX512 else 8  # float32 values of a vector register
_LANES = {32: LANES, 64: LANES // 2}
_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)

# Minimax polynomials by Remez' algorithm, from the constant term up, with their relative errors: 2**x over
# [-1/2, 1/2], 2e-9, and over [-1/64, 1/64], 5e-8 (their constant terms round to 1, so that a step of length
# zero changes nothing); 2 artanh(sqrt(x)) / sqrt(x) over [0, 1/9], 4e-9.
_EXP2 = [
    1.0,
    0.6931472057372526,
    0.24022646890639573,
    0.055503287769976636,
    0.009618488956522791,
    0.001339993120947414,
    0.00015345812158740183,
]
_EXP2_32NDS = [1.0, 0.6931573435652076, 0.2402247458324775]
_ARTANH = [2.0, 0.6666631468190272, 0.4002491028546148, 0.27960602708805665, 0.2817833513488206]


def _table_of_32nds() -> list[float]:
    """Return 2**(i/32), minus i << 18 in its bits: adding (32 x + i) << 18 to them scales it by 2**x."""
    values = np.exp2(np.arange(32) / 32).astype(np.float32)
    return (values.view(np.int32) - (np.arange(32, dtype=np.int32) << 18)).view(np.float32).tolist()


class _Format:
    """Float32 or float64: bits of the fraction, exponent bias, terms of series."""

    def __init__(self, bits: int):
        self.bits = bits
        self.fraction, self.bias = (23, 127) if bits == 32 else (52, 1023)
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, _LANES[bits])
        self.integer = ir.VectorType(ir.IntType(bits), _LANES[bits])
        self.exp2_table = bits == 32 and _AVX512
        if bits == 64:  # the next terms of the series, at 1/2 and at 1/9, are below rounding
            self.exp2_coefficients = [math.log(2.0) ** k / math.factorial(k) for k in range(15)]
            self.artanh_coefficients = [2.0 / (2 * k + 1) for k in range(17)]
        else:
            self.exp2_coefficients = _EXP2_32NDS if self.exp2_table else _EXP2
            self.artanh_coefficients = _ARTANH


_FORMATS = {types.float32: _Format(32), types.float64: _Format(64)}


def _int64(number: ir.Value | int) -> ir.Value:
    """Return an integer as an LLVM value."""
    return ir.Constant(_INT64, number) if isinstance(number, int) else number


class Vec:
    """Vector register of the emitted code: arithmetic on it emits instructions; plain numbers are
    broadcast."""

    def __init__(self, row: RowBuilder, value: ir.Value):
        self.row, self.value = row, value

    def _emit(self, instruction: str, other: Vec | float) -> Vec:
        return Vec(self.row, getattr(self.row.builder, instruction)(self.value, self.row.lift(other).value))

    def __add__(self, other: Vec | float) -> Vec:
        return self._emit("fadd", other)

    def __sub__(self, other: Vec | float) -> Vec:
        return self._emit("fsub", other)

    def __mul__(self, other: Vec | float) -> Vec:
        return self._emit("fmul", other)

    def __truediv__(self, other: Vec | float) -> Vec:
        return self._emit("fdiv", other)

    def times_plus(self, factor: Vec | float, addend: Vec | float) -> Vec:
        """Return self * factor + addend, fused where the CPU can."""
        row = self.row
        vector = row.format.vector
        name = f"llvm.fmuladd.v{vector.count}f{row.format.bits}"
        fma = cgutils.get_or_insert_function(row.builder.module, ir.FunctionType(vector, [vector] * 3), name)
        return Vec(row, row.builder.call(fma, [self.value, row.lift(factor).value, row.lift(addend).value]))

    def at_least(self, bound: float) -> Vec:
        """Return max(self, bound), except that NaN stays NaN."""
        return self._bounded("<", bound)

    def at_most(self, bound: float) -> Vec:
        """Return min(self, bound), except that NaN stays NaN."""
        return self._bounded(">", bound)

    def _bounded(self, beyond: str, bound: float) -> Vec:
        limit = self.row.lift(bound).value
        outside = self.row.builder.fcmp_ordered(beyond, self.value, limit)
        return Vec(self.row, self.row.builder.select(outside, limit, self.value))


class RowBuilder:
    """Instruction builder that a row operation gets."""

    def __init__(self, builder: ir.IRBuilder, form: _Format):
        self.builder, self.format = builder, form

    def lanes(self, width: ir.Value) -> Iterator[ir.Value]:
        """Loop over a row, one vector at a time; yields the position of its first value."""
        for vector in self.repeat(self.over(width, self.count)):
            yield self.slot(vector)

    def repeat(self, count: ir.Value) -> Iterator[ir.Value]:
        """Loop `count` times; yields the index."""
        with cgutils.for_range(self.builder, count, intp=_INT64) as loop:
            yield loop.index

    def repeat_mostly(self, count: ir.Value, usual: int) -> Iterator[ir.Value]:
        """Loop like `repeat`, but unrolled if `count` is the usual one, so that equal loads are made once."""
        as_usual = self.builder.icmp_signed("==", count, _int64(usual))
        with self.builder.if_else(as_usual) as (straight, looping):
            with straight:
                for index in range(usual):
                    yield _int64(index)
            with looping:
                yield from self.repeat(count)

    def repeat_reversed(self, count: ir.Value) -> Iterator[ir.Value]:
        """Loop `count` times; yields the index, from the last."""
        last = self.plus(count, -1)
        for index in self.repeat(count):
            yield self.builder.sub(last, index)

    def groups(self, count: ir.Value, size: int) -> Iterator[tuple[ir.Value, int]]:
        """Loop over 0 .. count - 1 by `size`, then by one; yields the first and how many."""
        whole = self.builder.sub(count, self.modulo(count, size))
        for start, stop, step in ((_int64(0), whole, size), (whole, count, 1)):
            with cgutils.for_range_slice(self.builder, start, stop, _int64(step), intp=_INT64) as (index, _):
                yield index, step

    def lift(self, value: Vec | float) -> Vec:
        """Return a number as a vector; a vector stays itself."""
        if isinstance(value, Vec):
            return value
        return Vec(self, ir.Constant(self.format.vector, [float(value)] * self.format.vector.count))

    def from_integer(self, number: ir.Value) -> Vec:
        """Return an integer argument as a value in all lanes."""
        return self._spread(self.builder.sitofp(number, self.format.scalar))

    @property
    def count(self) -> int:
        """Return the number of lanes of a vector."""
        return self.format.vector.count

    def plus(self, a: ir.Value, b: ir.Value | int) -> ir.Value:
        """Return a + b."""
        return self.builder.add(a, _int64(b))

    def over(self, a: ir.Value, b: int) -> ir.Value:
        """Return a // b."""
        return self.builder.udiv(a, _int64(b))

    def modulo(self, a: ir.Value, b: int) -> ir.Value:
        """Return a % b."""
        return self.builder.urem(a, _int64(b))

    def index(self, a: ir.Value, b: ir.Value | int, c: ir.Value | int) -> ir.Value:
        """Return a * b + c."""
        return self.plus(self.builder.mul(a, _int64(b)), c)

    def slot(self, j: ir.Value) -> ir.Value:
        """Return the position of vector j of an array of whole vectors."""
        return self.builder.mul(j, _int64(self.count))

    def _pointer(self, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
        """Return a pointer to value `at` of an array."""
        return self.builder.inttoptr(self.index(at, self.format.bits // 8, address), kind.as_pointer())

    def load(self, address: ir.Value, at: ir.Value) -> Vec:
        """Load a vector."""
        pointer = self._pointer(address, at, self.format.vector)
        return Vec(self, self.builder.load(pointer, align=self.format.bits // 8))

    def store(self, address: ir.Value, at: ir.Value, value: Vec) -> None:
        """Store a vector."""
        pointer = self._pointer(address, at, self.format.vector)
        self.builder.store(value.value, pointer, align=self.format.bits // 8)

    def note(self, table: ir.Value, k: ir.Value, number: ir.Value) -> None:
        """Store an integer, such as an address, as table[k]."""
        self.builder.store(number, self.builder.inttoptr(self.index(k, 8, table), _INT64.as_pointer()))

    def noted(self, table: ir.Value, k: ir.Value) -> ir.Value:
        """Load table[k]."""
        return self.builder.load(self.builder.inttoptr(self.index(k, 8, table), _INT64.as_pointer()))

    def move(self, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        """Copy `count` values, any number of them."""
        for at in self.lanes(count):
            self.store(target, at, self.load(source, at))
        rest = self.modulo(count, self.count)
        whole = self.builder.sub(count, rest)
        for index in self.repeat(rest):
            at = self.builder.add(whole, index)
            value = self.builder.load(self._pointer(source, at, self.format.scalar))
            self.builder.store(value, self._pointer(target, at, self.format.scalar))

    def prefetch(self, address: ir.Value, width: ir.Value, write: bool) -> None:
        """Prefetch a row into the second-level cache; a wrong address does no harm."""
        name, i32 = "llvm.prefetch.p0", ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, name)
        for line in self.repeat(self.over(width, CACHE_LINE * 8 // self.format.bits)):
            pointer = self.builder.inttoptr(self.index(line, CACHE_LINE, address), byte)
            self.builder.call(fetch, [pointer, *(i32(number) for number in (int(write), 2, 1))])

    def broadcast(self, address: ir.Value, at: ir.Value) -> Vec:
        """Load one value to all lanes."""
        return self._spread(self.builder.load(self._pointer(address, at, self.format.scalar)))

    def _spread(self, scalar: ir.Value) -> Vec:
        """Return a vector with a scalar in all lanes."""
        empty = ir.Constant(self.format.vector, ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(
            ir.VectorType(ir.IntType(32), self.format.vector.count), [0] * self.format.vector.count
        )
        return Vec(self, self.builder.shuffle_vector(first, empty, zeros))

    def variable(self, value: Vec | float = 0.0) -> Variable:
        """Return a vector that loops may change."""
        return Variable(self, self.lift(value))

    def _halves(self, a: ir.Value, b: ir.Value, segments: int, length: int) -> ir.Value:
        """Fold the segments of a and then of b, each of `length` lanes, in the middle."""
        half = length // 2
        starts = [segment * length for segment in range(segments)]
        low, high = (
            [start + lane for start in starts for lane in range(first, first + half)] for first in (0, half)
        )
        kind = ir.VectorType(_INT32, len(low))
        return self.builder.fadd(
            *(self.builder.shuffle_vector(a, b, ir.Constant(kind, lanes)) for lanes in (low, high))
        )

    def fold(self, vectors: list[Vec]) -> Vec:
        """Return one vector as it is, or four as one: a quarter of the lanes each, with the same sum."""
        lanes = self.format.vector.count
        values = [vector.value for vector in vectors]
        segments = 1
        while len(values) > 1:
            segments *= 2
            length = 2 * lanes // segments
            values = [
                self._halves(a, b, segments, length) for a, b in zip(values[::2], values[1::2], strict=True)
            ]
        return Vec(self, values[0])

    def add_folded(self, address: ir.Value, at: ir.Value, folded: Vec, n_sums: int, begun: ir.Value) -> None:
        """Write the sums in the result of `fold` to memory[at : at + n_sums], or add them if `begun`."""
        value, length = folded.value, self.format.vector.count // n_sums
        while length > 1:
            value = self._halves(value, value, n_sums, length)
            length //= 2
        pointer = self._pointer(address, at, value.type)
        zero = ir.Constant(value.type, [0.0] * n_sums)
        before = self.builder.select(
            self.builder.icmp_signed("!=", begun, ir.Constant(_INT64, 0)),
            self.builder.load(pointer, align=self.format.bits // 8),
            zero,
        )
        self.builder.store(self.builder.fadd(before, value), pointer, align=self.format.bits // 8)

    def store_sum(self, address: ir.Value, at: ir.Value, vector: Vec) -> None:
        """Store the sum of a vector's lanes as one value."""
        value, length = vector.value, self.count
        while length > 1:
            value = self._halves(value, value, 1, length)
            length //= 2
        total = self.builder.extract_element(value, _INT32(0))
        self.builder.store(total, self._pointer(address, at, self.format.scalar))

    def transpose(self, vectors: list[Vec]) -> list[Vec]:
        """Return the columns of as many vectors as a vector has lanes."""
        lanes, values = self.count, [vector.value for vector in vectors]
        halves = [
            ir.Constant(
                ir.VectorType(_INT32, lanes), [lane // 2 + lane % 2 * lanes + start for lane in range(lanes)]
            )
            for start in (0, lanes // 2)
        ]
        for _ in range(lanes.bit_length() - 1):  # each round, lane numbers and vector numbers turn by one bit
            pairs = zip(values[: lanes // 2], values[lanes // 2 :], strict=True)
            values = [self.builder.shuffle_vector(a, b, half) for a, b in pairs for half in halves]
        return [Vec(self, value) for value in values]

    def exp2(self, x: Vec) -> Vec:
        """Return 2**x, relative error about one unit in the last place; below 2**-bias it stays at that
        value."""
        form = self.format
        x = x.at_least(1.0 - form.bias).at_most(float(form.bias))
        fraction_bits = 5 if form.exp2_table else 0
        # adding it rounds to the nearest multiple of 2**-fraction_bits, whose count then sits in the low bits
        magic = 1.5 * 2.0 ** (form.fraction - fraction_bits)
        shifted = x + magic
        rest = x - (shifted - magic)
        count = self.builder.bitcast(shifted.value, form.integer)
        exponent = self.builder.shl(count, self._integers(form.fraction - fraction_bits))
        if not form.exp2_table:
            return self._plus_bits(self.polynomial(rest, form.exp2_coefficients), exponent)
        scale = self._plus_bits(self._choose_32nd(count), exponent)
        return scale.times_plus(rest * self.polynomial(rest, form.exp2_coefficients[1:]), scale)

    def _integers(self, number: int) -> ir.Constant:
        """Return an integer in all lanes."""
        return ir.Constant(self.format.integer, [number] * self.format.integer.count)

    def _plus_bits(self, value: Vec, bits: ir.Value) -> Vec:
        """Return the value whose bits are the sum; on an exponent, a product with a power of two."""
        total = self.builder.add(self.builder.bitcast(value.value, self.format.integer), bits)
        return Vec(self, self.builder.bitcast(total, self.format.vector))

    def _choose_32nd(self, index: ir.Value) -> Vec:
        """Return entry `index` % 32 of the table that two AVX-512 registers hold."""
        form, table = self.format, _table_of_32nds()
        halves = [ir.Constant(form.vector, table[i : i + 16]) for i in (0, 16)]
        kind = ir.FunctionType(form.vector, [form.vector, form.integer, form.vector])
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        choose = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return Vec(self, self.builder.call(choose, [halves[0], index, halves[1]]))

    def polynomial(self, x: Vec, coefficients: list[float]) -> Vec:
        """Evaluate a polynomial by Horner's rule; coefficients from the constant term up."""
        value = self.lift(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = value.times_plus(x, coefficient)
        return value

    def sigmoid(self, x: Vec) -> Vec:
        """Return the sigmoid of x."""
        return self.lift(1.0) / (self.exp2(x * -math.log2(math.e)) + 1.0)

    def silu_slope(self, x: Vec, sigmoid: Vec) -> Vec:
        """Return the derivative of x sigmoid(x)."""
        return sigmoid * x.times_plus(self.lift(1.0) - sigmoid, 1.0)

    def softplus(self, x: Vec) -> tuple[Vec, Vec]:
        """Return log(1 + exp(x)) and its slope, the sigmoid; LLVM drops what is not used.

        With e = exp(-|x|): max(x, 0) + log1p(e), where log1p(e) = 2 artanh(e / (2 + e)).
        """
        positive = x.at_least(0.0)
        e = self.exp2((x.at_most(0.0) - positive) * math.log2(math.e))
        s = e / (e + 2.0)
        value = s.times_plus(self.polynomial(s * s, self.format.artanh_coefficients), positive)
        rising = self.builder.fcmp_ordered(">", x.value, self.lift(0.0).value)
        upper = Vec(self, self.builder.select(rising, self.lift(1.0).value, e.value))
        return value, upper / (e + 1.0)


class Variable:
    """Vector that loops may change; LLVM keeps it in a register."""

    def __init__(self, row: RowBuilder, value: Vec):
        self.row = row
        self.slot = cgutils.alloca_once(row.builder, row.format.vector)
        self.value = value

    @property
    def value(self) -> Vec:
        return Vec(self.row, self.row.builder.load(self.slot))

    @value.setter
    def value(self, value: Vec) -> None:
        self.row.builder.store(value.value, self.slot)


def row_operation(body: Callable[..., None]) -> Any:
    """Turn body(row, *integers) into a function for numba code: name(tag, *integers)."""

    def typer(typingctx, tag, *integers):
        def codegen(context, builder, signature, args):
            body(RowBuilder(builder, _FORMATS[tag]), *args[1:])
            return context.get_dummy_value()

        return types.void(tag, *[types.int64] * len(integers)), codegen

    arguments = [p.name for p in inspect.signature(body).parameters.values()][1:]
    names = ("typingctx", "tag", *arguments)
    typer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    typer.__name__ = body.__name__
    return intrinsic(typer)
