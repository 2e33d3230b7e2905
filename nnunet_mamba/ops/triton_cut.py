"""How a selective scan is cut into programs of the Triton kernels: arithmetic alone, without triton.

A piece is one walk's block of states. A program walks one segment of one piece for WIDTH channels. Where a
sequence is one segment, its kernel walks it once; where it is several, twice, since their states have to be
handed on first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nnunet_mamba.ops.chunks import CHUNKS

CHUNK = CHUNKS["triton"]
UNROLL = {"forward": 2, "backward": 2}  # steps at a time
WIDTH = 32  # channels of a program: the lanes of a warp
MOST_STATES = 16  # of a program, in each lane's registers
SHORTEST = 64  # steps of a segment
UNCUT = {"forward": 5, "backward": 7}  # programs per multiprocessor that hide latency without a second walk


@dataclass(frozen=True)
class Sizes:
    """Of a call: u, delta (walks, batch, length, channels), B (walks, batch, groups, length, n)."""

    walks: int
    batch: int
    length: int
    channels: int
    groups: int
    n: int

    @cached_property
    def states(self) -> int:
        """Of a piece."""
        return states_of(self.n)

    @cached_property
    def state_blocks(self) -> int:
        return -(-self.n // self.states)

    @cached_property
    def pieces(self) -> int:
        return self.walks * self.state_blocks

    @cached_property
    def channel_blocks(self) -> int:
        """Of a group."""
        return -(-(self.channels // self.groups) // WIDTH)


def states_of(n: int) -> int:
    """Of a piece, if a channel has n: a power of 2."""
    return min(MOST_STATES, 1 << (n - 1).bit_length())


@dataclass(frozen=True)
class Cut:
    """Of one pass, `forward` or `backward`.

    together    all pieces in one launch, each with outputs of its own; else one launch after the other
    segments    of a sequence, of `steps` each, a multiple of CHUNK
    """

    sizes: Sizes
    together: bool
    segments: int
    steps: int

    @property
    def at_once(self) -> int:
        """Pieces of a launch."""
        return self.sizes.pieces if self.together else 1

    @property
    def walks_at_once(self) -> int:
        return self.sizes.walks if self.together else 1

    @property
    def programs(self) -> int:
        """Of a piece, for each block of channels: what adds up to gradients of A, D and bias."""
        return self.sizes.batch * self.segments

    @cached_property
    def grid(self) -> tuple[int, int, int]:
        return self.programs, self.sizes.groups * self.sizes.channel_blocks, self.at_once


def cut(sizes: Sizes, phase: str, processors: int, at_once: int) -> Cut:
    """For a GPU of so many multiprocessors, each with room for `at_once` programs.

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
