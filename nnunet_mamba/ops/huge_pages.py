"""New tensors on large pages of memory, where Linux has them."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 20  # bytes


def empty(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """As torch.empty. On CPUs a large new tensor would cost a page fault every 4 KiB, which take as long as
    the scan's forward pass."""
    tensor = torch.empty(shape, dtype=dtype, device=device)
    return on_large_pages(tensor) if tensor.device.type == "cpu" else tensor


def on_large_pages(tensor: Tensor) -> Tensor:
    """The same tensor, not yet written to; Linux is asked for large pages behind it."""
    advise = _madvise()
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (tensor.data_ptr() + tensor.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if advise is not None and size >= LARGE:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(mmap.MADV_HUGEPAGE))
    return tensor


@cache
def _madvise() -> Any:
    """The C library's madvise, or None."""
    return getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
