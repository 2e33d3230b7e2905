"""Arithmetic of the selective scan on rows of channels, for the kernels in `numba_scan_kernels`.

A chunk is up to CHUNK steps in the order of the scan. Within it, arrays per step are (steps, width), B and C
(steps, n); A, states and their gradients are (n, width). `n_steps`, `n` and `width` count values.

The two row operations that visit every state work in tiles of TILE_STATES states by TILE_VECTORS vectors of
channels, which stay in registers over the whole chunk; what is left over goes state by state, vector by
vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from llvmlite import ir

from nnunet_mamba.ops.simd import RowBuilder, Variable, Vec, row_operation

TILE_STATES = 4
TILE_VECTORS = 2
TILE = TILE_STATES * TILE_VECTORS


class Tile:
    """Tile of `states` states by `vectors` vectors of channels, held in registers."""

    def __init__(
        self, row: RowBuilder, width: ir.Value, vector: ir.Value, vectors: int, state: ir.Value, states: int
    ):
        self.row, self.width = row, width
        self.vector, self.state, self.states = vector, state, range(states)
        self.lanes = [row.plus(row.slot(vector), v * row.count) for v in range(vectors)]
        self.vectors = range(vectors)

    def load(self, address: ir.Value) -> list[list[Variable]]:
        """Load the tile from an array (n, width)."""
        return [[self.row.variable(self.one(address, j, v)) for v in self.vectors] for j in self.states]

    def _at(self, j: int, v: int) -> ir.Value:
        """Return the position of a vector in an array (n, width)."""
        return self.row.index(self.row.plus(self.state, j), self.width, self.lanes[v])

    def one(self, address: ir.Value, j: int, v: int) -> Vec:
        """Load one vector of an array (n, width)."""
        return self.row.load(address, self._at(j, v))

    def store(self, address: ir.Value, values: list[list[Variable]]) -> None:
        """Store the tile to an array (n, width)."""
        for j in self.states:
            for v in self.vectors:
                self.row.store(address, self._at(j, v), values[j][v].value)

    def at_step(self, address: ir.Value, k: ir.Value) -> list[Vec]:
        """Load the vectors of step k from an array (steps, width)."""
        return [self.row.load(address, self.row.index(k, self.width, lane)) for lane in self.lanes]

    def store_at_step(self, address: ir.Value, k: ir.Value, values: list[Vec]) -> None:
        """Store the vectors of step k to an array (steps, width)."""
        for lane, value in zip(self.lanes, values, strict=True):
            self.row.store(address, self.row.index(k, self.width, lane), value)

    def coefficient(self, address: ir.Value, k: ir.Value, n: ir.Value, j: int) -> Vec:
        """Load the value of step k and state j from an array (steps, n) to all lanes."""
        return self.row.broadcast(address, self.row.index(k, n, self.row.plus(self.state, j)))

    def kept(self, k: ir.Value, j: int, v: int) -> ir.Value:
        """Return the position of a vector of step k in scratch memory of (steps, TILE) vectors."""
        return self.row.slot(self.row.plus(self.row.index(k, TILE, 0), j * TILE_VECTORS + v))

    def add_sum(self, address: ir.Value, k: ir.Value, n: ir.Value, products: list[Vec]) -> None:
        """Add one product per state, folded, to its place in (steps, places): see `add_sums`."""
        place = self.row.slot(self.row.index(k, _places(self.row, n), _place(self.row, self.state)))
        self.row.store(address, place, self.row.load(address, place) + self.row.fold(products))


def _place(row: RowBuilder, state: ir.Value) -> ir.Value:
    """Return the index of the partial sums of the tile that starts at `state`, whole or of one state."""
    return row.builder.add(row.over(state, TILE_STATES), row.modulo(state, TILE_STATES))


def _places(row: RowBuilder, n: ir.Value) -> ir.Value:
    """Return the number of vectors of partial sums per step."""
    return _place(row, n)


def _dot(a: list[Vec], b: list[Vec]) -> Vec:
    """Return the sum of products, lane by lane."""
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = x.times_plus(y, total)
    return total


def _tiles(row: RowBuilder, width: ir.Value, n: ir.Value) -> Iterator[Tile]:
    """Loop over the tiles of an array (n, width)."""
    for vector, vectors in row.groups(row.over(width, row.count), TILE_VECTORS):
        for state, states in row.groups(n, TILE_STATES):
            yield Tile(row, width, vector, vectors, state, states)


@row_operation
def prepare(row: RowBuilder, width, delta, u, bias, step, step_u, out):
    """Compute step = delta + bias; step_u = step u; out = 0."""
    for at in row.lanes(width):
        value = row.load(delta, at) + row.load(bias, at)
        row.store(step, at, value)
        row.store(step_u, at, value * row.load(u, at))
        row.store(out, at, row.lift(0.0))


@row_operation
def prepare_softplus(row: RowBuilder, width, delta, u, bias, step, step_u, out):
    """Compute step = softplus(delta + bias); step_u = step u; out = 0."""
    for at in row.lanes(width):
        value, _ = row.softplus(row.load(delta, at) + row.load(bias, at))
        row.store(step, at, value)
        row.store(step_u, at, value * row.load(u, at))
        row.store(out, at, row.lift(0.0))


@row_operation
def prepare_softplus_and_slope(row: RowBuilder, width, delta, u, bias, step, step_u, out, slope):
    """Compute `prepare_softplus` and slope, the derivative of step."""
    for at in row.lanes(width):
        value, derivative = row.softplus(row.load(delta, at) + row.load(bias, at))
        row.store(step, at, value)
        row.store(slope, at, derivative)
        row.store(step_u, at, value * row.load(u, at))
        row.store(out, at, row.lift(0.0))


@row_operation
def prepare_gate(row: RowBuilder, width, z, dy, dout, dy_slope):
    """Compute the gradients of y silu(z): dout = dy silu(z); dy_slope = dy silu'(z), which times y is dz."""
    for at in row.lanes(width):
        z_v, dy_v = row.load(z, at), row.load(dy, at)
        s = row.sigmoid(z_v)
        row.store(dout, at, dy_v * (z_v * s))
        row.store(dy_slope, at, dy_v * row.silu_slope(z_v, s))


@row_operation
def advance(row: RowBuilder, width, n, n_steps, A, step, step_u, B, C, h, out):
    """Advance h over a chunk by h = 2**(step A) h + step_u B; add the sum over the states of C h to out."""
    for tile in _tiles(row, width, n):
        states = tile.load(h)
        for k in row.repeat(n_steps):
            steps, steps_u, outs = (tile.at_step(address, k) for address in (step, step_u, out))
            for j in tile.states:
                B_v, C_v = tile.coefficient(B, k, n, j), tile.coefficient(C, k, n, j)
                for v in tile.vectors:
                    decay = row.exp2(steps[v] * tile.one(A, j, v))
                    state = decay.times_plus(states[j][v].value, steps_u[v] * B_v)
                    states[j][v].value = state
                    outs[v] = state.times_plus(C_v, outs[v])
            tile.store_at_step(out, k, outs)
        tile.store(h, states)


@row_operation
def retreat(
    row: RowBuilder, width, n, n_steps, A, step, step_u, B, C, h, out, dout, dh, dA, through_u, through_decay,
    sums_B, sums_C, before, decays
):  # fmt: skip
    """Repeat `advance` over a chunk, then go back through it.

    `dh` holds the gradient of the chunk's last state from later chunks, and then that of `h`. Adds to dA, to
    through_u and through_decay (the gradients of step_u and, but for a factor ln 2, of step by way of the
    decays) and to the partial sums of dB and dC. `before` and `decays` are scratch.
    """
    for tile in _tiles(row, width, n):
        _recall(row, tile, n, n_steps, A, step, step_u, B, C, h, out, dout, sums_C, before, decays)
        gradients, slopes = tile.load(dh), tile.load(dA)
        for k in row.repeat_reversed(n_steps):
            steps, steps_u, douts = (tile.at_step(address, k) for address in (step, step_u, dout))
            u_sums, decay_sums = (tile.at_step(address, k) for address in (through_u, through_decay))
            products = []
            for j in tile.states:
                B_v, C_v = tile.coefficient(B, k, n, j), tile.coefficient(C, k, n, j)
                grads: list[Vec] = []
                for v in tile.vectors:
                    grad = douts[v].times_plus(C_v, gradients[j][v].value)
                    grads.append(grad)
                    u_sums[v] = grad.times_plus(B_v, u_sums[v])
                    earlier = grad * row.load(decays, tile.kept(k, j, v))
                    gradients[j][v].value = earlier
                    exponent = earlier * row.load(before, tile.kept(k, j, v))
                    decay_sums[v] = exponent.times_plus(tile.one(A, j, v), decay_sums[v])
                    slopes[j][v].value = exponent.times_plus(steps[v], slopes[j][v].value)
                products.append(_dot(grads, steps_u))
            tile.add_sum(sums_B, k, n, products)
            tile.store_at_step(through_u, k, u_sums)
            tile.store_at_step(through_decay, k, decay_sums)
        tile.store(dh, gradients)
        tile.store(dA, slopes)


def _recall(
    row: RowBuilder, tile: Tile, n, n_steps, A, step, step_u, B, C, h, out, dout, sums_C, before, decays
) -> None:
    """Repeat `advance` for one tile; keep states and decays, and add to the sums of dC."""
    states = tile.load(h)
    for k in row.repeat(n_steps):
        steps, steps_u, outs, douts = (tile.at_step(address, k) for address in (step, step_u, out, dout))
        products = []
        for j in tile.states:
            B_v, C_v = tile.coefficient(B, k, n, j), tile.coefficient(C, k, n, j)
            after: list[Vec] = []
            for v in tile.vectors:
                decay = row.exp2(steps[v] * tile.one(A, j, v))
                row.store(before, tile.kept(k, j, v), states[j][v].value)
                row.store(decays, tile.kept(k, j, v), decay)
                state = decay.times_plus(states[j][v].value, steps_u[v] * B_v)
                states[j][v].value = state
                outs[v] = state.times_plus(C_v, outs[v])
                after.append(state)
            products.append(_dot(after, douts))
        tile.add_sum(sums_C, k, n, products)
        tile.store_at_step(out, k, outs)


@row_operation
def add_sums(row: RowBuilder, n, k, sums, target, begun):
    """Write step k's partial sums (see `Tile.add_sum`) to target (n,), or add them if `begun`; clear the
    partial sums."""
    for state, states in row.groups(n, TILE_STATES):
        place = row.slot(row.index(k, _places(row, n), _place(row, state)))
        row.add_folded(target, state, row.load(sums, place), states, begun)
        row.store(sums, place, row.lift(0.0))


@row_operation
def finish(row: RowBuilder, width, out, D, u, y):
    """Compute y = out + D u."""
    for at in row.lanes(width):
        row.store(y, at, row.load(D, at).times_plus(row.load(u, at), row.load(out, at)))


@row_operation
def finish_gated(row: RowBuilder, width, out, D, u, z, y):
    """Compute y = (out + D u) silu(z)."""
    for at in row.lanes(width):
        z_v = row.load(z, at)
        value = row.load(D, at).times_plus(row.load(u, at), row.load(out, at))
        row.store(y, at, value * (z_v * row.sigmoid(z_v)))


@row_operation
def finish_gate(row: RowBuilder, width, out, D, u, dy_slope, dz):
    """Compute dz = (out + D u) dy_slope."""
    for at in row.lanes(width):
        value = row.load(D, at).times_plus(row.load(u, at), row.load(out, at))
        row.store(dz, at, value * row.load(dy_slope, at))


@row_operation
def settle(row: RowBuilder, width, u, step, slope, D, dout, through_u, through_decay, du, ddelta, dD, dbias):
    """Turn the gradients of step_u and of the exponents into those of u, delta, D, bias; clear the former."""
    for at in row.lanes(width):
        u_v, dout_v, through = row.load(u, at), row.load(dout, at), row.load(through_u, at)
        row.store(du, at, through.times_plus(row.load(step, at), dout_v * row.load(D, at)))
        d_step = through.times_plus(u_v, row.load(through_decay, at) * math.log(2.0))
        d_delta = d_step * row.load(slope, at)
        row.store(ddelta, at, d_delta)
        row.store(dD, at, dout_v.times_plus(u_v, row.load(dD, at)))
        row.store(dbias, at, row.load(dbias, at) + d_delta)
        row.store(through_u, at, row.lift(0.0))
        row.store(through_decay, at, row.lift(0.0))
