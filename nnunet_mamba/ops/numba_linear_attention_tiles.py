"""Arithmetic of linear attention on matrices, for the kernels in `numba_linear_attention_kernels`.

A matrix is rows of `width` values, a multiple of LANES, that begin `pitch` values apart, or one after the
other. Products keep a tile of the result in registers: up to TILE_ROWS rows by TILE_VECTORS vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llvmlite import ir

from nnunet_mamba.ops.simd import RowBuilder, row_operation

TILE_ROWS = 4
TILE_VECTORS = 2


class _Sums:
    """Tile of the matrix `result`, in registers: the vectors at `lanes` of `rows` rows, from row `first` on.

    Factor k of row i is a[i a_row + k a_step]; it multiplies row k of b, a matrix with the result's pitch.
    """

    def __init__(self, row: RowBuilder, pitch, factors, b, result, first: ir.Value, rows: int, lanes):
        self.row, self.pitch, self.factors, self.b, self.result = row, pitch, factors, b, result
        self.first, self.rows, self.lanes = first, range(rows), lanes
        self.values = [[row.variable(row.load(result, self._at(i, at))) for at in lanes] for i in self.rows]

    def row_number(self, i: int) -> ir.Value:
        """Return the row of the result that is row i of the tile."""
        return self.row.plus(self.first, i)

    def _at(self, i: int, lane: ir.Value) -> ir.Value:
        """Return the position of a vector of row i of the tile."""
        return self.row.index(self.row_number(i), self.pitch, lane)

    def add(self, k: ir.Value, rows: Sequence[int]) -> None:
        """Add factor k times row k of b to some rows of the tile."""
        row, (a, a_row, a_step) = self.row, self.factors
        vectors = [row.load(self.b, row.index(k, self.pitch, at)) for at in self.lanes]
        for i in rows:
            factor = row.broadcast(a, row.index(self.row_number(i), a_row, row.index(k, a_step, 0)))
            for value, vector in zip(self.values[i], vectors, strict=True):
                value.value = vector.times_plus(factor, value.value)

    def store(self) -> None:
        """Store the tile."""
        for i in self.rows:
            for at, value in zip(self.lanes, self.values[i], strict=True):
                self.row.store(self.result, self._at(i, at), value.value)


def _tiles(row: RowBuilder, width, pitch, n_rows, a, a_row, a_step, b, result) -> Iterator[_Sums]:
    """Load the tiles of the result (n_rows, width) one after the other, and store each again."""
    for vector, vectors in row.groups(row.over(width, row.count), TILE_VECTORS):
        lanes = [row.plus(row.slot(vector), v * row.count) for v in range(vectors)]
        for first, rows in row.groups(n_rows, TILE_ROWS):
            sums = _Sums(row, pitch, (a, a_row, a_step), b, result, first, rows, lanes)
            yield sums
            sums.store()


@row_operation
def add_product(row: RowBuilder, width, pitch, n_rows, depth, a, a_row, a_step, b, result):
    """Add the sums over k < depth of a[i, k] b[k] to the rows i of the result."""
    for sums in _tiles(row, width, pitch, n_rows, a, a_row, a_step, b, result):
        for k in row.repeat(depth):
            sums.add(k, sums.rows)


@row_operation
def add_past(row: RowBuilder, width, pitch, n_rows, a, a_row, a_step, b, result):
    """Add the sums over s <= t of a[t, s] b[s] to the rows t of the result."""
    for sums in _tiles(row, width, pitch, n_rows, a, a_row, a_step, b, result):
        for k in row.repeat(sums.first):
            sums.add(k, sums.rows)
        for j in sums.rows:  # row by row, so that what comes later is not read: it may be NaN
            sums.add(sums.row_number(j), sums.rows[j:])


@row_operation
def add_future(row: RowBuilder, width, pitch, n_rows, a, a_row, a_step, b, result):
    """Add the sums over t >= s of a[s, t] b[t] to the rows s of the result."""
    for sums in _tiles(row, width, pitch, n_rows, a, a_row, a_step, b, result):
        for j in sums.rows:
            sums.add(sums.row_number(j), sums.rows[: j + 1])
        behind = sums.row_number(len(sums.rows))
        for k in row.repeat(row.builder.sub(n_rows, behind)):
            sums.add(row.builder.add(behind, k), sums.rows)


@row_operation
def transpose(row: RowBuilder, width, pitch, n_rows, source, target):
    """Transpose (n_rows, width) to (width, n_rows) without gaps; both are multiples of LANES."""
    for at in row.lanes(n_rows):
        for lane in row.lanes(width):
            square = [row.load(source, row.index(row.plus(at, i), pitch, lane)) for i in range(row.count)]
            for j, column in enumerate(row.transpose(square)):
                row.store(target, row.index(row.plus(lane, j), n_rows, at), column)


@row_operation
def scale(row: RowBuilder, width, pitch, n_rows, factors, factor_step, source, target):
    """Compute target[i] = factors[i factor_step] source[i], both (n_rows, width)."""
    for i in row.repeat(n_rows):
        factor = row.broadcast(factors, row.index(i, factor_step, 0))
        for lane in row.lanes(width):
            at = row.index(i, pitch, lane)
            row.store(target, at, factor * row.load(source, at))


@row_operation
def decay_edges(row: RowBuilder, width, last, high, low, from_start, to_end):
    """Compute the decays from a chunk's start to each step, 2**(high + low), and from each to step `last`."""
    last_high, last_low = row.broadcast(high, last), row.broadcast(low, last)
    for at in row.lanes(width):
        own_high, own_low = row.load(high, at), row.load(low, at)
        row.store(from_start, at, row.exp2(own_high + own_low))
        row.store(to_end, at, row.exp2(((last_high - own_high) + (last_low - own_low)).at_most(0.0)))


@row_operation
def weigh(row: RowBuilder, width, n_rows, high, low, past, products, decays, weights):
    """Compute decays[t, s] = 2**(high + low of t - those of s) for s <= t, else 0; weights = decays products.

    All are (n_rows, width) with a column per step; past is 1 for s <= t, else 0. Columns after a row's last
    vector are left alone.
    """
    for t in row.repeat(n_rows):
        own_high, own_low = row.broadcast(high, t), row.broadcast(low, t)
        for vector in row.repeat(row.plus(row.over(t, row.count), 1)):
            lane = row.slot(vector)
            at = row.index(t, width, lane)
            exponent = (own_high - row.load(high, lane)) + (own_low - row.load(low, lane))
            decay = row.exp2(exponent.at_most(0.0)) * row.load(past, at)
            row.store(decays, at, decay)
            row.store(weights, at, decay * row.load(products, at))


@row_operation
def gather_pairs(
    row: RowBuilder, width, n_rows, before, products, decays, d_weights, d_products, row_sums, column_sums
):  # fmt: skip
    """Add the gradients of weights times decays to d_products; sum the gradients of pairs' log decays.

    All are (n_rows, width) as in `weigh`, the sums (width,): over what each step gets and over what it gives.
    `before` is 1 for s < t, else 0.
    """
    for t in row.repeat(n_rows):
        total = row.variable()
        for vector in row.repeat(row.plus(row.over(t, row.count), 1)):
            lane = row.slot(vector)
            at = row.index(t, width, lane)
            d_product = row.load(d_weights, at) * row.load(decays, at)
            row.store(d_products, at, row.load(d_products, at) + d_product)
            pair = d_product * row.load(products, at) * row.load(before, at)
            row.store(column_sums, lane, row.load(column_sums, lane) + pair)
            total.value = total.value + pair
        row.store_sum(row_sums, t, total.value)


@row_operation
def gather_edges(row: RowBuilder, width, n_rows, factors, through, other, total, sums):
    """Scale through's columns by the factors; add it to the total, and through * other, over rows, to sums.

    through, other, total (n_rows, width); factors, sums (width,).
    """
    for lane in row.lanes(width):
        factor, sum_ = row.load(factors, lane), row.variable()
        for i in row.repeat(n_rows):
            at = row.index(i, width, lane)
            value = factor * row.load(through, at)
            row.store(total, at, row.load(total, at) + value)
            sum_.value = value.times_plus(row.load(other, at), sum_.value)
        row.store(sums, lane, sum_.value)


@row_operation
def dot(row: RowBuilder, width, pitch, n_rows, a, b, result):
    """Compute result[0], the sum of a * b, both (n_rows, width)."""
    total = row.variable()
    for i in row.repeat(n_rows):
        for lane in row.lanes(width):
            at = row.index(i, pitch, lane)
            total.value = row.load(a, at).times_plus(row.load(b, at), total.value)
    row.store_sum(result, row.index(width, 0, 0), total.value)
