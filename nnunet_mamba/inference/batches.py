"""Batches of patches and of their mirrored copies for one forward pass, and its threads.

Every batch size is a power of two. So is the number of mirrored copies of a patch (2**k for k axes), and a
network gets few different shapes: cuDNN benchmarks, and torch.compile compiles, once per shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# with more voxels a patch becomes hardly cheaper: measured on a CPU with one network, a guess on CUDA
MOST_VOXELS = {"cpu": 2**16, "cuda": 2**24}
FREE_SHARE = 0.5  # of the GPU's free memory, for allocators need slack
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")


def mirrorings(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return the axes (of B, C, *grid) to flip for each copy, in nnU-Net's order; none for the first copy."""
    own = [axis + 2 for axis in axes or ()]
    return [flipped for n in range(len(own) + 1) for flipped in combinations(own, n)]


def floor_power_of_two(most: float) -> int:
    """Return the largest power of two up to `most`, at least 1."""
    return 2 ** (max(int(most), 1).bit_length() - 1)


def split_groups(items: Sequence[T], most: Callable[[], int]) -> Iterator[Sequence[T]]:
    """Yield successive parts of `items`; `most` is called before each, for the limit may sink."""
    start = 0
    while start < len(items):
        size = floor_power_of_two(min(most(), len(items) - start))
        yield items[start : start + size]
        start += size


def choose_batch_size(network: nn.Module, patch: Tensor) -> int:
    """Choose the number of patches per forward pass on the device of `patch` (1, C, *grid)."""
    most = MOST_VOXELS.get(patch.device.type, 1) / prod(patch.shape[2:])
    if patch.device.type == "cuda" and most >= 2:
        most = min(most, FREE_SHARE * free_bytes(patch.device) / measure_forward_bytes(network, patch))
    return floor_power_of_two(most)


def free_bytes(device: torch.device) -> int:
    """Return the bytes that are free on a CUDA device, those that torch has reserved included."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def measure_forward_bytes(network: nn.Module, patch: Tensor) -> int:
    """Measure the bytes that one forward pass allocates at its peak on a CUDA device, at least 1."""
    before = torch.cuda.memory_allocated(patch.device)
    torch.cuda.reset_peak_memory_stats(patch.device)
    network(patch)
    return max(1, torch.cuda.max_memory_allocated(patch.device) - before)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return True if memory ran out. torch's class is for its own CUDA allocator only; libraries and the CPU
    raise a RuntimeError that says so."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch compute with `n` threads on the CPU within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
