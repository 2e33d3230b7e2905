"""How many patches go through a network at once, and which.

Every number here is a power of two. So are the mirrored copies of a patch (2**k for k axes), and a network
meets few different shapes: cuDNN tries out its algorithms, and torch.compile compiles, once per shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# beyond these a patch becomes hardly cheaper: on a CPU by one run of one network, on CUDA a guess
MOST_VOXELS = {"cpu": 2**16, "cuda": 2**24}
FREE_SHARE = 0.5  # of the GPU's free memory, for allocators need slack
OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "DefaultCPUAllocator")


def mirrorings(axes: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The axes (of B, C, *grid) to flip for each copy, in nnU-Net's order; the first copy is as it is."""
    own = [axis + 2 for axis in axes or ()]
    return [flipped for n in range(len(own) + 1) for flipped in combinations(own, n)]


def power_of_two(most: float) -> int:
    """The largest that is not above `most`, at least 1."""
    return 2 ** (max(int(most), 1).bit_length() - 1)


def groups(items: Sequence[T], most: Callable[[], int]) -> Iterator[Sequence[T]]:
    """Successive parts of `items`; `most` is asked before each, for memory may turn out to be short."""
    start = 0
    while start < len(items):
        size = power_of_two(min(most(), len(items) - start))
        yield items[start : start + size]
        start += size


def batch_size_for(network: nn.Module, patch: Tensor) -> int:
    """Patches per forward pass on the patch's device. Shape: (1, C, *grid)"""
    most = MOST_VOXELS.get(patch.device.type, 1) / prod(patch.shape[2:])
    if patch.device.type == "cuda" and most >= 2:
        most = min(most, FREE_SHARE * free_memory(patch.device) / memory_of_forward(network, patch))
    return power_of_two(most)


def free_memory(device: torch.device) -> int:
    """Bytes that a CUDA device can still give to torch, with what torch holds for later."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def memory_of_forward(network: nn.Module, patch: Tensor) -> int:
    """Bytes that pass through a CUDA device at the peak of one forward pass, at least 1."""
    before = torch.cuda.memory_allocated(patch.device)
    torch.cuda.reset_peak_memory_stats(patch.device)
    network(patch)
    return max(1, torch.cuda.max_memory_allocated(patch.device) - before)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Torch has a class for its own allocator's complaint only; libraries and the CPU have just words."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)
