"""Parts that the numba kernels share: compilation, rows in the order of the scan, tasks and threads.

Threads are our own small pool, since the kernels release the GIL: numba's threading layers abort under
concurrent calls (workqueue) or kill forked workers (OpenMP), and nnU-Net does both. The pool follows
`torch.get_num_threads()` and is forgotten in forked children, which start their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba.core import event
from torch import Tensor

from nnunet_mamba.ops.huge_pages import empty
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.simd import CACHE_LINE, VECTOR, RowBuilder, row_operation

_logger = logging.getLogger("nnunet_mamba")


class _CompileNotice(event.Listener):  # type: ignore[misc]
    """Listener that warns once per process when one of our kernels has to be compiled."""

    given = False

    def on_start(self, started: event.Event) -> None:
        dispatcher = started.data["dispatcher"]
        if self.given or not dispatcher.py_func.__module__.startswith("nnunet_mamba."):
            return
        self.given = True
        folder = dispatcher._cache.cache_path
        where = f"cached in {folder}" if folder else "no cache folder is writable, so in every process"
        _logger.warning("Compiling the CPU kernels on first use, a few seconds each; %s.", where)

    def on_end(self, ended: event.Event) -> None:
        pass


event.register("numba:compile", _CompileNotice())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile with numba, without the GIL, cached on disk where a cache folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable cache folder
        return numba.njit(nogil=True)(function)


@row_operation
def move(row: RowBuilder, count, source, target):
    """Copy `count` values."""
    row.move(source, target, count)


@row_operation
def fill(row: RowBuilder, width, target, ones):
    """Fill a row with zeros, or with ones if `ones` is 1."""
    value = row.from_integer(ones)
    for at in row.lanes(width):
        row.store(target, at, value)


@row_operation
def prefetch_read(row: RowBuilder, width, source):
    """Prefetch a row to read it."""
    row.prefetch(source, width, write=False)


@row_operation
def prefetch_write(row: RowBuilder, width, target):
    """Prefetch a row to write to it."""
    row.prefetch(target, width, write=True)


@compiled
def token_at(p, indices, t):
    """Return the row of memory of step t."""
    k = p.length - 1 - t if p.reverse else t
    return indices[k] if indices.size else k


@compiled
def fetch(tag, lanes, block, source, scratch):
    """Return the address of a readable row of `block` values: the source, or its copy if it ends too
    early."""
    if lanes == block:
        return source
    move(tag, lanes, source, scratch)
    return scratch


def readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in `dtype` with its last axis contiguous; itself if it already is."""
    tensor = tensor.detach()
    if tensor.dtype == dtype and tensor.stride(-1) == 1:
        return tensor
    return empty(*tensor.shape, dtype=dtype).copy_(tensor)


class Call:
    """Call of a kernel on sequences like `sequence`, cut into tasks: its types, and how to run it."""

    def __init__(self, sequence: Tensor, n_tasks: int, indices: Tensor | None):
        self.dtype = accumulation_dtype(sequence)
        self.tag = np.float64(0) if self.dtype == torch.float64 else np.float32(0)
        self.indices = np.empty(0, np.int32) if indices is None else indices.numpy()
        self.ranges = split_tasks(n_tasks)

    @property
    def size(self) -> int:
        """Return the bytes of a value."""
        return self.dtype.itemsize

    def empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the accumulation dtype."""
        return empty(*shape, dtype=self.dtype)

    def place(self, tensor: Tensor | None, n_strides: int = 0) -> tuple[int, ...]:
        """Return the address and the first strides in bytes; all 0 for None."""
        if tensor is None:
            return (0,) * (n_strides + 1)
        return tensor.data_ptr(), *(stride * self.size for stride in tensor.stride()[:n_strides])

    def run(self, kernel: Callable[..., None], scratch: int, *arguments: Any) -> None:
        """Call kernel(tag, *arguments, indices, first, last, thread, address of `scratch` zeros) in every
        thread."""

        def work(thread: int) -> None:
            # numpy's, as torch would zero this much in threads of its own, which then spin on our cores
            own = np.zeros(scratch * self.size + CACHE_LINE, np.uint8)
            address = -(-own.ctypes.data // CACHE_LINE) * CACHE_LINE
            kernel(self.tag, *arguments, self.indices, *self.ranges[thread], thread, address)

        run_in_threads(work, len(self.ranges))


class Tasks(Call):
    """Call whose tasks are a batch item and a block of at most `largest` channels, padded to whole vectors.

    There are no fewer tasks than threads, if the channels allow. Arrays per channel go to the kernels as
    (g * blocks, m, block).
    """

    def __init__(self, u: Tensor, groups: int, largest: int, indices: Tensor | None):
        self.batch, self.length, self.channels = u.shape
        self.groups, self.group = groups, self.channels // groups
        wanted = max(-(-self.group // largest), torch.get_num_threads() // (self.batch * groups))
        self.block = -(-self.group // (wanted * VECTOR)) * VECTOR
        self.blocks = -(-self.group // self.block)
        super().__init__(u, self.batch * groups * self.blocks, indices)

    def pad(self, per_channel: Tensor | None) -> Tensor:
        """Bring (d, m) or (d,) into the form (g * blocks, m, block), zeros behind each group; None is
        zeros."""
        if per_channel is None:
            per_channel = torch.zeros(self.channels)
        grouped = per_channel.detach().to(self.dtype).reshape(self.groups, self.group, -1)
        padded = F.pad(grouped, (0, 0, 0, self.blocks * self.block - self.group))
        return padded.reshape(self.groups * self.blocks, self.block, -1).transpose(1, 2).contiguous()

    def unpad(self, per_task: Tensor) -> Tensor:
        """Bring (b, g * blocks, m, block) into the form (d, m), summed over the batch: the adjoint of
        `pad`."""
        blocks = per_task.sum(0).transpose(1, 2).reshape(self.groups, self.blocks * self.block, -1)
        return blocks[:, : self.group].reshape(self.channels, -1)

    def zeros(self, *shape: int) -> Tensor:
        """Return zeros in the accumulation dtype."""
        return torch.zeros(shape, dtype=self.dtype)

    def sums(self, per_channel: int) -> Tensor:
        """Return zeros for the sums of each task: (b, g * blocks, per_channel, block)."""
        return self.zeros(self.batch, self.groups * self.blocks, per_channel, self.block)


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """Forget the pool in a forked child, which has none of its threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_in_threads(work: Callable[[int], None], n_parts: int) -> None:
    """Call work(0) ... work(n_parts - 1) at once, one thread each; the caller takes the last part itself."""
    global _pool
    if n_parts > 1 and (_pool is None or _pool._max_workers < n_parts - 1):
        _pool = ThreadPoolExecutor(n_parts - 1, thread_name_prefix="nnunet_mamba")
    others = [_pool.submit(work, part) for part in range(n_parts - 1)] if _pool else []
    work(n_parts - 1)
    for other in others:
        other.result()


def split_tasks(n_tasks: int, n_threads: int | None = None) -> list[tuple[int, int]]:
    """Split the tasks into even ranges [first, last), one per thread; None: those that torch may use."""
    n_parts = max(1, min(n_threads or torch.get_num_threads(), n_tasks))
    edges = [n_tasks * part // n_parts for part in range(n_parts + 1)]
    return list(pairwise(edges))
