"""The selective scan on CPUs: numba loops over rows of SIMD arithmetic, channels last.

A task is one batch item and one block of at most BLOCK channels; it scans the sequence once, in chunks of
CHUNK steps, with a chunk's work in the first two levels of cache. Forward keeps the state before every chunk;
backward recomputes the states of one chunk at a time from there, so the states of a whole sequence are never
stored.

Inputs are read where they lie (any batch and row strides, channels contiguous) in the order of `indices`.
Sums are float64 for float64 inputs, else float32, and deterministic for a given number of threads.

Shapes: b batch, l tokens, d channels, g groups, n states; u, delta, z, y (b, l, d); A (d, n); B, C (b, g, l,
n).
"""

from __future__ import annotations

import math
from itertools import accumulate

from torch import Tensor

from nnunet_mamba.ops.numba_scan_kernels import (
    CHUNK,
    Gradients,
    Problem,
    Scratch,
    scan_backward,
    scan_forward,
)
from nnunet_mamba.ops.numba_scan_tiles import TILE, TILE_STATES
from nnunet_mamba.ops.numba_tasks import Tasks, readable
from nnunet_mamba.ops.simd import VECTOR

TAKES_ALL_DIRECTIONS = False
BLOCK = 64


class _ScanCall(Tasks):
    """Tensors of one call, in the form that the kernels take."""

    def __init__(self, u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool):
        super().__init__(u, B.shape[1], BLOCK, indices)
        self.n = A.shape[1]
        self.u, self.delta, self.B, self.C = (readable(t, self.dtype) for t in (u, delta, B, C))
        self.z = None if z is None else readable(z, self.dtype)
        self.A, self.D, self.bias = (
            self.pad(A.to(self.dtype) * math.log2(math.e)),
            self.pad(D),
            self.pad(bias),
        )
        self.softplus, self.reverse = softplus, reverse

    def problem(self, states: Tensor | None, y: Tensor | None) -> Problem:
        """Return the call as integers."""
        sizes = (self.length, self.n, self.block, self.blocks, self.group, self.groups, self.size)
        place = self.place
        sequences = (
            *place(self.u, 2),
            *place(self.delta, 2),
            *place(self.z, 2),
            *place(self.B, 3),
            *place(self.C, 3),
        )
        rest = (place(t)[0] for t in (self.A, self.D, self.bias, states, y))
        return Problem(*sizes, int(self.softplus), int(self.reverse), *sequences, *rest)

    @property
    def places(self) -> int:
        """Return the number of values in one step's partial sums of dB or dC: a vector per tile, whole or of
        one state."""
        return (self.n // TILE_STATES + self.n % TILE_STATES) * VECTOR

    def scratch(self, for_backward: bool) -> tuple[Scratch, int]:
        """Return the offsets of a thread's arrays, and how many values they hold; forward needs only the
        first."""
        state = self.n * self.block
        sizes = {
            **dict.fromkeys(Scratch._fields, self.block),
            **dict.fromkeys(("step", "step_u", "slope", "out"), CHUNK * self.block),
            **dict.fromkeys(("B", "C"), CHUNK * self.n),
            **dict.fromkeys(("h", "dh"), state),
            **dict.fromkeys(("dout", "dy_slope", "through_u", "through_decay"), CHUNK * self.block),
            **dict.fromkeys(("sums_B", "sums_C"), CHUNK * self.places),
            **dict.fromkeys(("before", "decays"), CHUNK * TILE * VECTOR),
        }
        ends = list(accumulate(sizes[name] for name in Scratch._fields))
        scratch = Scratch(*(self.size * start for start in (0, *ends[:-1])))
        return scratch, ends[-1] if for_backward else scratch.dh // self.size

    def parts(self) -> int:
        """Return the largest number of threads that share one batch item."""
        per_item = self.groups * self.blocks
        edges = range(0, self.batch * per_item, per_item)
        return max(
            sum(first < edge + per_item and last > edge for first, last in self.ranges) for edge in edges
        )


def forward(
    u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool, states: Tensor | None
) -> Tensor:
    """Return y (b, l, d) in u's dtype; fill `states`, those before each chunk (b, chunks, n, d)."""
    call = _ScanCall(u, delta, A, B, C, D, z, bias, indices, softplus, reverse)
    y = call.empty(*u.shape)
    scratch, size = call.scratch(for_backward=False)
    call.run(scan_forward, size, call.problem(states, y), scratch)
    return y.to(u.dtype)


def backward(
    dy,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    bias,
    indices,
    states,
    softplus: bool,
    reverse: bool,
    du: Tensor,
    ddelta: Tensor,
) -> tuple[Tensor, ...]:
    """Return gradients of A, B, C, D, z (empty without z) and bias, in the accumulation dtype; fill du and
    ddelta (b, l, d), contiguous and of that dtype."""
    call = _ScanCall(u, delta, A, B, C, D, z, bias, indices, softplus, reverse)
    parts, dy = call.parts(), readable(dy, call.dtype)
    dz = call.empty(*((0,) if z is None else u.shape))
    dB, dC = (call.empty(parts, call.batch, call.groups, call.length, call.n) for _ in range(2))
    if parts > 1:  # a thread writes only to the items that it has tasks of
        dB.zero_()
        dC.zero_()
    dA, dD, dbias = call.sums(call.n), call.sums(1), call.sums(1)
    addresses = (t.data_ptr() for t in (du, ddelta, dz, dB, dC, dA, dD, dbias))
    gradients = Gradients(call.batch, parts, *call.place(dy, 2), *addresses)
    scratch, size = call.scratch(for_backward=True)
    call.run(scan_backward, size, call.problem(states, None), gradients, scratch)
    dB, dC = (t[0] if parts == 1 else t.sum(0) for t in (dB, dC))
    return call.unpad(dA), dB, dC, call.unpad(dD)[:, 0], dz, call.unpad(dbias)[:, 0]
