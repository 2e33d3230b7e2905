"""New tensors on huge pages of memory, where Linux has them."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 20  # bytes of a tensor that is worth a system call


def empty(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return an uninitialised tensor, like torch.empty, on huge pages if it is on the CPU.

    With normal pages a large new tensor costs a page fault every 4 KiB, which together take as long as the
    scan's forward pass.
    """
    tensor = torch.empty(shape, dtype=dtype, device=device)
    return use_huge_pages(tensor) if tensor.device.type == "cpu" else tensor


def use_huge_pages(tensor: Tensor) -> Tensor:
    """Ask Linux for huge pages behind a tensor that has not been written to yet; return the same tensor."""
    advise = _madvise()
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (tensor.data_ptr() + tensor.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    if advise is not None and size >= SMALLEST:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(mmap.MADV_HUGEPAGE))
    return tensor


@cache
def _madvise() -> Any:
    """Return the C library's madvise, or None where there is none."""
    return getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
