"""Steps between the states that forward keeps for backward, by backend: 4 n / steps bytes per token and
channel.

Here, and not with the kernels, so that shapes can be told without numba or triton.
"""

CHUNKS = {"numba": 32, "triton": 32, "torch": 256}


def chunk_count(backend: str, length: int) -> int:
    return -(-length // CHUNKS[backend])
