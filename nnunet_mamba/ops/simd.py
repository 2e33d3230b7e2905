"""Rows of vectors for numba: arithmetic on memory, emitted as LLVM vector instructions.

numba's own loop vectoriser is fragile (one alias check too many and a loop runs scalar). Here a row operation
is written once as arithmetic on `Vec` values and becomes straight vector code on any CPU that LLVM knows.
Everything is an address (int64) of contiguous float32 or float64 values; a `tag` argument carries the type.

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
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_AVX512 = llvm.get_host_cpu_features().get("avx512f", False)
VECTOR = 16  # every row width is a multiple of this
_LANES = {32: 16 if _AVX512 else 8, 64: 8 if _AVX512 else 4}
_INT64 = ir.IntType(64)


class _Format:
    """What differs between float32 and float64: bits of the fraction, exponent bias, terms of series."""

    def __init__(self, bits: int):
        self.bits = bits
        self.fraction, self.bias = (23, 127) if bits == 32 else (52, 1023)
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, _LANES[bits])
        self.integer = ir.VectorType(ir.IntType(bits), _LANES[bits])
        self.log1p_terms = 8 if bits == 32 else 17
        n_terms = 8 if bits == 32 else 15  # the next term of the series at 1/2 is below rounding
        self.exp2_coefficients = [math.log(2.0) ** k / math.factorial(k) for k in range(n_terms)]


_FORMATS = {types.float32: _Format(32), types.float64: _Format(64)}


class Vec:
    """A vector register in the making: arithmetic on it emits instructions; plain numbers are broadcast."""

    def __init__(self, row: Row, value: ir.Value):
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
        """self * factor + addend, fused where the CPU can."""
        row = self.row
        vector = row.format.vector
        name = f"llvm.fmuladd.v{vector.count}f{row.format.bits}"
        fma = cgutils.get_or_insert_function(row.builder.module, ir.FunctionType(vector, [vector] * 3), name)
        return Vec(row, row.builder.call(fma, [self.value, row.lift(factor).value, row.lift(addend).value]))

    def at_least(self, bound: float) -> Vec:
        """max(self, bound), except that NaN stays NaN."""
        return self._bounded("<", bound)

    def at_most(self, bound: float) -> Vec:
        """min(self, bound), except that NaN stays NaN."""
        return self._bounded(">", bound)

    def _bounded(self, beyond: str, bound: float) -> Vec:
        limit = self.row.lift(bound).value
        outside = self.row.builder.fcmp_ordered(beyond, self.value, limit)
        return Vec(self.row, self.row.builder.select(outside, limit, self.value))


class Row:
    """The instruction builder handed to a row operation."""

    def __init__(self, builder: ir.IRBuilder, form: _Format):
        self.builder, self.format = builder, form

    def lanes(self, width: ir.Value) -> Iterator[ir.Value]:
        """Loop over a row, one vector at a time; yields the position of its first value."""
        step = ir.Constant(_INT64, self.format.vector.count)
        with cgutils.for_range(self.builder, self.builder.udiv(width, step), intp=_INT64) as loop:
            yield self.builder.mul(loop.index, step)

    def repeat(self, count: ir.Value) -> Iterator[ir.Value]:
        """Loop `count` times; yields the index."""
        with cgutils.for_range(self.builder, count, intp=_INT64) as loop:
            yield loop.index

    def lift(self, value: Vec | float) -> Vec:
        if isinstance(value, Vec):
            return value
        return Vec(self, ir.Constant(self.format.vector, [float(value)] * self.format.vector.count))

    def from_integer(self, number: ir.Value) -> Vec:
        """An integer argument as a value in all lanes."""
        return self._spread(self.builder.sitofp(number, self.format.scalar))

    def index(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c"""
        return self.builder.add(self.builder.mul(a, b), c)

    def slot(self, j: ir.Value) -> ir.Value:
        """Where vector j of an array of whole vectors begins."""
        return self.builder.mul(j, ir.Constant(_INT64, self.format.vector.count))

    def _pointer(self, address: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
        size = ir.Constant(_INT64, self.format.bits // 8)
        return self.builder.inttoptr(self.index(at, size, address), kind.as_pointer())

    def load(self, address: ir.Value, at: ir.Value) -> Vec:
        pointer = self._pointer(address, at, self.format.vector)
        return Vec(self, self.builder.load(pointer, align=self.format.bits // 8))

    def store(self, address: ir.Value, at: ir.Value, value: Vec) -> None:
        pointer = self._pointer(address, at, self.format.vector)
        self.builder.store(value.value, pointer, align=self.format.bits // 8)

    def move(self, source: ir.Value, target: ir.Value, count: ir.Value) -> None:
        """Copy `count` values, any number of them."""
        for at in self.repeat(count):
            value = self.builder.load(self._pointer(source, at, self.format.scalar))
            self.builder.store(value, self._pointer(target, at, self.format.scalar))

    def broadcast(self, address: ir.Value, at: ir.Value) -> Vec:
        """One value from memory in all lanes."""
        return self._spread(self.builder.load(self._pointer(address, at, self.format.scalar)))

    def _spread(self, scalar: ir.Value) -> Vec:
        empty = ir.Constant(self.format.vector, ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(
            ir.VectorType(ir.IntType(32), self.format.vector.count), [0] * self.format.vector.count
        )
        return Vec(self, self.builder.shuffle_vector(first, empty, zeros))

    def variable(self) -> Variable:
        """A running sum that survives loops, zero at first."""
        return Variable(self)

    def add_sum(self, address: ir.Value, at: ir.Value, value: Vec) -> None:
        """memory[at] += sum over the lanes of `value`, by halving, always in the same order."""
        lanes, total = self.format.vector.count, value.value
        while lanes > 1:
            lanes //= 2
            halves = [
                self.builder.shuffle_vector(
                    total,
                    total,
                    ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes))),
                )
                for start in (0, lanes)
            ]
            total = self.builder.fadd(*halves)
        total = self.builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
        pointer = self._pointer(address, at, self.format.scalar)
        self.builder.store(self.builder.fadd(self.builder.load(pointer), total), pointer)

    def exp2(self, x: Vec) -> Vec:
        """2**x, relative error about one unit in the last place; below 2**-bias it stays at that value."""
        form, builder = self.format, self.builder
        magic = (
            1.5 * 2.0**form.fraction
        )  # adding it rounds to the nearest integer, which then sits in the low bits
        x = x.at_least(1.0 - form.bias).at_most(float(form.bias))
        shifted = x + magic
        rest = x - (shifted - magic)
        power = self.polynomial(rest, form.exp2_coefficients)
        bits = builder.bitcast(shifted.value, form.integer)
        lanes = form.integer.count
        exponent = builder.shl(bits, ir.Constant(form.integer, [form.fraction] * lanes))
        scale = builder.add(exponent, ir.Constant(form.integer, [form.bias << form.fraction] * lanes))
        return power * Vec(self, builder.bitcast(scale, form.vector))

    def polynomial(self, x: Vec, coefficients: list[float]) -> Vec:
        """Horner's rule; coefficients from the constant term up."""
        value = self.lift(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = value.times_plus(x, coefficient)
        return value

    def sigmoid(self, x: Vec) -> Vec:
        return self.lift(1.0) / (self.exp2(x * -math.log2(math.e)) + 1.0)

    def softplus(self, x: Vec) -> Vec:
        """log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = 2 artanh(e / (2 + e))."""
        magnitude = x.at_least(0.0) - x.at_most(0.0)
        e = self.exp2(magnitude * -math.log2(math.e))
        s = e / (e + 2.0)
        series = self.polynomial(s * s, [2.0 / (2 * k + 1) for k in range(self.format.log1p_terms)])
        return s.times_plus(series, x.at_least(0.0))


class Variable:
    """A vector that loops may change; LLVM keeps it in a register."""

    def __init__(self, row: Row):
        self.row = row
        self.slot = cgutils.alloca_once(row.builder, row.format.vector)
        self.value = row.lift(0.0)

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
            body(Row(builder, _FORMATS[tag]), *args[1:])
            return context.get_dummy_value()

        return types.void(tag, *[types.int64] * len(integers)), codegen

    arguments = [p.name for p in inspect.signature(body).parameters.values()][1:]
    names = ("typingctx", "tag", *arguments)
    typer.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    typer.__name__ = body.__name__
    return intrinsic(typer)
