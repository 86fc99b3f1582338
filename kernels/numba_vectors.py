"""Vector arithmetic inside numba functions, in which the inner loops of the CPU kernels are written.

numba leaves most of our loops scalar, because nothing tells LLVM that ten arrays do not overlap. An `intrinsic` can
emit LLVM instructions itself. This module emits vectors of 16 numbers, which LLVM splits into the vectors of the
processor (AVX-512, AVX2, SSE, NEON). A kernel is a Python function that is run once, at compile time:

    @vector_kernel
    def scale(emit, arrays, integers):
        x, factor, out = arrays
        count, = integers
        with emit.span(count, LANES) as i:
            out.put(i, x.row(i) * factor.spread(0))

and inside a numba function `scale((x, factor, out), (count,))` runs it. All arrays are flat and have one dtype, except
that some may be int8, whose numbers are converted when they are read. An array that is read must not overlap one that
is written, except at exactly the same place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # numbers in one vector
ORDERED = ("contract",)  # multiplication and addition may fuse
FREE = ("contract", "reassoc", "nsz")  # and sums may be reordered; NaN and infinity stay what they are

INTEGER = ir.IntType(64)
LLVM_TYPES = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.int8: ir.IntType(8)}


class Index:
    """An integer of the compiled program."""

    def __init__(self, emit: Emitter, value: Any) -> None:
        self.emit, self.value = emit, value

    def __add__(self, other: Index | int) -> Index:
        return Index(self.emit, self.emit.builder.add(self.value, self.emit.index(other).value))

    def __sub__(self, other: Index | int) -> Index:
        return Index(self.emit, self.emit.builder.sub(self.value, self.emit.index(other).value))

    def __mul__(self, other: Index | int) -> Index:
        return Index(self.emit, self.emit.builder.mul(self.value, self.emit.index(other).value))

    def __floordiv__(self, other: int) -> Index:
        """Floor division for non-negative numbers."""
        return Index(self.emit, self.emit.builder.udiv(self.value, self.emit.index(other).value))

    def number(self) -> Row:
        """The integer as a number in every lane of one vector."""
        return self.emit.spread(self.emit.builder.sitofp(self.value, self.emit.number))


class Row:
    """A row of numbers in registers: vectors of LANES, or a single vector, which combines with a row of any length."""

    def __init__(self, emit: Emitter, parts: Sequence[Any]) -> None:
        self.emit, self.parts = emit, list(parts)

    def __add__(self, other: Row | float) -> Row:
        return self._with(other, self.emit.builder.fadd)

    def __sub__(self, other: Row | float) -> Row:
        return self._with(other, self.emit.builder.fsub)

    def __mul__(self, other: Row | float) -> Row:
        return self._with(other, self.emit.builder.fmul)

    def __truediv__(self, other: Row | float) -> Row:
        return self._with(other, self.emit.builder.fdiv)

    def __neg__(self) -> Row:
        return self * -1.0

    def _with(self, other: Row | float, operation: Callable[..., Any]) -> Row:
        theirs = other.parts if isinstance(other, Row) else [self.emit.constant(other)]
        count = max(len(self.parts), len(theirs))
        pairs = zip(self.parts * (count // len(self.parts)), theirs * (count // len(theirs)), strict=True)
        return Row(self.emit, [operation(x, y, flags=FREE) for x, y in pairs])

    def at_least(self, bound: float) -> Row:
        return self._call("maxnum", self.emit.constant(bound))

    def at_most(self, bound: float) -> Row:
        return self._call("minnum", self.emit.constant(bound))

    def sqrt(self) -> Row:
        return self._call("sqrt")

    def sum(self) -> Row:
        """The sum of the row in every lane of one vector."""
        emit, total = self.emit, self.parts[0]
        for part in self.parts[1:]:
            total = emit.builder.fadd(total, part, flags=FREE)
        kind = ir.FunctionType(emit.number, [emit.number, emit.vector])
        reduce = emit.function(f"llvm.vector.reduce.fadd.v{LANES}{emit.suffix}", kind)
        return emit.spread(emit.builder.call(reduce, [ir.Constant(emit.number, 0.0), total], fastmath=FREE))

    def exp(self) -> Row:
        """e to the power of each number, float32 only, relative error below 2e-7 for -87 to 88, clamped outside."""
        return Row(self.emit, [self._exp(part) for part in self.at_least(-87.0).at_most(88.0).parts])

    def _exp(self, x: Any) -> Any:
        emit, builder = self.emit, self.emit.builder
        doublings = emit.call("rint", builder.fmul(x, emit.constant(1 / math.log(2)), flags=ORDERED))
        for piece in (
            0.693359375,
            math.log(2) - 0.693359375,
        ):  # log 2 in two parts, of which the first has exact products
            x = builder.fsub(x, builder.fmul(doublings, emit.constant(piece), flags=ORDERED), flags=ORDERED)
        total = emit.constant(1 / 5040)  # Taylor's series; |x| is now below 0.35
        for order in range(6, -1, -1):
            factor = emit.constant(1 / math.factorial(order))
            total = builder.fadd(builder.fmul(total, x, flags=ORDERED), factor, flags=ORDERED)
        whole = ir.VectorType(ir.IntType(32), LANES)
        biased = builder.add(builder.fptosi(doublings, whole), ir.Constant(whole, [127] * LANES))
        power = builder.bitcast(builder.shl(biased, ir.Constant(whole, [23] * LANES)), emit.vector)
        return builder.fmul(total, power)

    def sigmoid(self) -> Row:
        return self.emit.one() / ((-self).exp() + 1.0)

    def tanh(self) -> Row:
        return (self * 2.0).sigmoid() * 2.0 - 1.0

    def _call(self, name: str, *more: Any) -> Row:
        return Row(self.emit, [self.emit.call(name, part, *more) for part in self.parts])


class Array:
    """The data of a flat array of the compiled program."""

    def __init__(self, emit: Emitter, pointer: Any) -> None:
        self.emit, self.pointer = emit, pointer

    @property
    def is_int8(self) -> bool:
        return bool(self.pointer.type.pointee == ir.IntType(8))

    def _place(self, at: Index | int, *, vector: bool) -> Any:
        place = self.emit.builder.gep(self.pointer, [self.emit.index(at).value])
        kind = ir.VectorType(self.pointer.type.pointee, LANES)
        return self.emit.builder.bitcast(place, kind.as_pointer()) if vector else place

    def row(self, at: Index | int, length: int = LANES) -> Row:
        """The `length` numbers from place `at` on; a multiple of LANES."""
        at = self.emit.index(at)
        parts = [self.emit.builder.load(self._place(at + i, vector=True)) for i in range(0, length, LANES)]
        for part in parts:
            part.align = 1 if self.is_int8 else self.emit.align
        return Row(self.emit, [self.emit.widened(part) for part in parts] if self.is_int8 else parts)

    def spread(self, at: Index | int) -> Row:
        """The number at `at` in every lane of one vector."""
        return self.emit.spread(self.emit.builder.load(self._place(at, vector=False)))

    def prefetch(self, at: Index | int) -> None:
        """Starts fetching the data at `at`, which may be past the end, into the second-level cache."""
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        place = self.emit.builder.bitcast(self._place(at, vector=False), byte)
        hints = [ir.Constant(word, value) for value in (0, 2, 1)]  # to read; locality 2 of 3; data
        self.emit.builder.call(self.emit.function("llvm.prefetch.p0", kind), [place, *hints])

    def put(self, at: Index | int, row: Row) -> None:
        at = self.emit.index(at)
        for i, part in enumerate(row.parts):
            self.emit.builder.store(part, self._place(at + i * LANES, vector=True)).align = self.emit.align


class Sum:
    """A row of sums that start at zero and that LLVM keeps in registers."""

    def __init__(self, emit: Emitter, length: int) -> None:
        self.emit = emit
        self.places = [cgutils.alloca_once(emit.builder, emit.vector) for _ in range(0, length, LANES)]
        for place in self.places:
            emit.builder.store(emit.constant(0.0), place)

    def add(self, row: Row) -> None:
        self.set(self.row() + row)

    def set(self, row: Row) -> None:
        for place, part in zip(self.places, row.parts, strict=True):
            self.emit.builder.store(part, place)

    def row(self) -> Row:
        return Row(self.emit, [self.emit.builder.load(place) for place in self.places])


class RowSums:
    """The sums of LANES rows in one vector. Folding the rows in pairs is cheaper than `Row.sum` of each."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self.folded: list[tuple[Any, list[int]]] = []  # each vector, and the row whose partial sum a lane holds
        self.count = 0

    def add(self, row: Row) -> None:
        total = row.parts[0]
        for part in row.parts[1:]:
            total = self.emit.builder.fadd(total, part, flags=FREE)
        owners = [self.count] * LANES
        self.count += 1
        while self.folded and len(set(self.folded[-1][1])) == len(set(owners)):
            other, theirs = self.folded.pop()
            halves = _halves(LANES // len(set(owners)))
            low, high = (self._shuffled(other, total, places) for places in halves)
            total = self.emit.builder.fadd(low, high, flags=FREE)
            owners = [(theirs + owners)[place] for place in halves[0]]
        self.folded.append((total, owners))

    def row(self) -> Row:
        """After LANES rows: their sums, in the order in which they were added."""
        [(total, owners)] = self.folded
        return Row(self.emit, [self._shuffled(total, total, [owners.index(n) for n in range(LANES)])])

    def _shuffled(self, one: Any, two: Any, places: list[int]) -> Any:
        kind = ir.VectorType(ir.IntType(32), LANES)
        return self.emit.builder.shuffle_vector(one, two, ir.Constant(kind, places))


def _halves(width: int) -> tuple[list[int], list[int]]:
    """Places in two vectors, one after the other, of the lower and upper half of each group of `width` lanes.

    Two groups are interleaved within 128 bits, wider ones are not: each is then one instruction of AVX-512.
    """
    low = [place for start in range(0, 2 * LANES, width) for place in range(start, start + width // 2)]
    if width <= 4:
        low = [p + shift for block in range(0, LANES, 4) for shift in (0, LANES) for p in low if block <= p < block + 4]
    return low, [place + width // 2 for place in low]


class Emitter:
    """Writes instructions for float32 or float64 arrays at the builder's position."""

    def __init__(self, builder: ir.IRBuilder, *, double: bool) -> None:
        self.builder = builder
        self.number = ir.DoubleType() if double else ir.FloatType()
        self.suffix, self.align = ("f64", 8) if double else ("f32", 4)
        self.vector = ir.VectorType(self.number, LANES)

    def index(self, value: Index | int) -> Index:
        return value if isinstance(value, Index) else Index(self, ir.Constant(INTEGER, value))

    def maximum(self, x: Index, y: int) -> Index:
        bound = self.index(y).value
        return Index(self, self.builder.select(self.builder.icmp_signed(">", x.value, bound), x.value, bound))

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * LANES)

    def widened(self, small: Any) -> Any:
        """A vector of int8 as a vector of numbers."""
        whole = self.builder.sext(small, ir.VectorType(ir.IntType(32), LANES))
        return self.builder.sitofp(whole, self.vector)

    def one(self) -> Row:
        return Row(self, [self.constant(1.0)])

    def spread(self, number: Any) -> Row:
        nothing = ir.Constant(self.vector, ir.Undefined)
        single = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return Row(self, [self.builder.shuffle_vector(single, nothing, places)])

    def sum(self, length: int = LANES) -> Sum:
        return Sum(self, length)

    def row_sums(self) -> RowSums:
        return RowSums(self)

    @contextmanager
    def span(self, count: Index | int, step: Index | int = 1) -> Iterator[Index]:
        """Emits the block as the body of a loop over 0, step, 2 step ... below count; yields the loop variable."""
        bounds = [self.index(x).value for x in (0, count, step)]
        with cgutils.for_range_slice(self.builder, *bounds) as (i, _):
            yield Index(self, i)

    def call(self, name: str, *vectors: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * len(vectors))
        return self.builder.call(self.function(f"llvm.{name}.v{LANES}{self.suffix}", kind), vectors)

    def function(self, name: str, kind: ir.FunctionType) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


def vector_kernel(body: Callable[[Emitter, list[Array], list[Index]], None]) -> Callable[..., None]:
    """A numba function of a tuple of flat arrays and a tuple of integers, whose instructions `body` emits.

    It remains a separate function in the compiled program, so that many calls cost no more compile time than one.
    """
    name = f"{body.__module__}.{body.__qualname__}.{next(_count)}"

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args[0].types
        arrays, integers = (cgutils.unpack_tuple(builder, x) for x in args)
        pointers = [context.make_array(t)(context, builder, value=x).data for t, x in zip(kinds, arrays, strict=True)]
        numbers = [LLVM_TYPES[t.dtype] for t in kinds]
        builder.call(_function(builder.module, name, body, numbers, len(integers)), pointers + integers)
        return context.get_dummy_value()

    def typed(typingctx: Any, arrays: Any, integers: Any) -> Any:  # noqa: ARG001 -- numba's signature
        return types.void(arrays, integers), generate

    kernel: Callable[..., None] = intrinsic(typed)
    return kernel


_count = itertools.count()


def _function(module: Any, name: str, body: Callable[..., None], numbers: Sequence[ir.Type], integers: int) -> Any:
    """The LLVM function of a kernel for arrays of these types, added to the module when it is first needed."""
    kind = ir.FunctionType(ir.VoidType(), [number.as_pointer() for number in numbers] + [INTEGER] * integers)
    name = ".".join([name, *map(str, numbers)])
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit = Emitter(builder, double=ir.DoubleType() in numbers)
    pointers = [Array(emit, x) for x in function.args[: len(numbers)]]
    body(emit, pointers, [Index(emit, x) for x in function.args[len(numbers) :]])
    builder.ret_void()
    return function
