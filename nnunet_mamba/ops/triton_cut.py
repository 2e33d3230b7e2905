"""Cut of a selective scan into programs of the Triton kernels: arithmetic alone, without triton.

A piece is one direction's block of states. A program scans one segment of one piece for WIDTH channels. If a
sequence is one segment, its kernel scans it once; if it is several, twice, since the states at their ends
have to be passed on first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nnunet_mamba.ops.constants import CHUNKS, MOST_STATES, SHORTEST, UNCUT, WIDTH

CHUNK = CHUNKS["triton"]


@dataclass(frozen=True)
class ScanSizes:
    """Sizes of a call: u, delta (directions, batch, length, channels), B (directions, batch, groups, length,
    n)."""

    directions: int
    batch: int
    length: int
    channels: int
    groups: int
    n: int

    @cached_property
    def states(self) -> int:
        """Return the number of states of a piece."""
        return states_of(self.n)

    @cached_property
    def state_blocks(self) -> int:
        """Return the number of pieces of a direction."""
        return -(-self.n // self.states)

    @cached_property
    def pieces(self) -> int:
        """Return the number of pieces of all directions."""
        return self.directions * self.state_blocks

    @cached_property
    def channel_blocks(self) -> int:
        """Return the number of blocks of WIDTH channels in a group."""
        return -(-(self.channels // self.groups) // WIDTH)


def states_of(n: int) -> int:
    """Return the number of states of a piece if a channel has n: a power of 2."""
    return min(MOST_STATES, 1 << (n - 1).bit_length())


@dataclass(frozen=True)
class Cut:
    """Cut of one pass, `forward` or `backward`.

    together    all pieces in one launch, each with outputs of its own; else one launch after the other
    segments    of a sequence, of `steps` each, a multiple of CHUNK
    """

    sizes: ScanSizes
    together: bool
    segments: int
    steps: int

    @property
    def at_once(self) -> int:
        """Return the number of pieces of a launch."""
        return self.sizes.pieces if self.together else 1

    @property
    def directions_at_once(self) -> int:
        """Return the number of directions of a launch."""
        return self.sizes.directions if self.together else 1

    @property
    def programs(self) -> int:
        """Return the programs of a piece and block of channels; their sums are the gradients of A, D and
        bias."""
        return self.sizes.batch * self.segments

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        """Return the grid of a launch."""
        return self.programs, self.sizes.groups * self.sizes.channel_blocks, self.at_once


def cut(sizes: ScanSizes, phase: str, processors: int, at_once: int) -> Cut:
    """Cut a call for a GPU of `processors` multiprocessors, each with room for `at_once` programs.

    A piece that fills the GPU by itself runs alone: it needs no output of its own.
    """
    per_piece = sizes.batch * sizes.groups * sizes.channel_blocks
    wanted = processors * at_once
    together = sizes.pieces > 1 and per_piece * sizes.length < wanted * SHORTEST
    programs = per_piece * (sizes.pieces if together else 1)
    steps = sizes.length
    if programs < processors * min(at_once, UNCUT[phase]):
        steps = max(SHORTEST, -(-sizes.length * programs // wanted))
    steps = -(-steps // CHUNK) * CHUNK
    return Cut(sizes, together, -(-sizes.length // steps), steps)
