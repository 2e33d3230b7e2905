"""Sizes of the kernels' chunks and of the Triton kernels' programs, readable without numba and triton.

The memory estimate needs them where no kernel can run, so they do not live beside the kernels.
"""

from __future__ import annotations

# Steps between the states that forward keeps for backward: 4 n / steps bytes per token and channel.
CHUNKS = {"numba": 32, "triton": 32, "torch": 256}
LINEAR_CHUNKS = {"numba": 32, "triton": 64, "torch": 64}  # of linear attention: 4 n / steps, likewise

# The Triton scan's programs (see `triton_cut`).
WIDTH = 32  # channels of a program, of the scan and of the convolution: the lanes of a warp
UNROLL = {"forward": 2, "backward": 2}  # steps at a time
MOST_STATES = 16  # of a program, in each lane's registers
SHORTEST = 64  # steps of a segment
UNCUT = {"forward": 5, "backward": 7}  # programs per multiprocessor that hide latency without a second pass


def chunk_count(backend: str, length: int) -> int:
    """Return the number of chunks that a backend cuts a sequence of `length` tokens into."""
    return -(-length // CHUNKS[backend])
