"""What the numba kernels share: compilation, rows in walking order, the cut of a call into tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba.core import event
from torch import Tensor

from nnunet_mamba.ops.huge_pages import empty
from nnunet_mamba.ops.simd import CACHE_LINE, VECTOR, Row, row_operation
from nnunet_mamba.ops.threads import run_in_threads, split

_logger = logging.getLogger("nnunet_mamba")


class _CompileNotice(event.Listener):  # type: ignore[misc]
    """Says, once per process, that a kernel of ours was not in the cache."""

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
    """njit without the GIL, cached on disk where a cache folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable cache folder
        return numba.njit(nogil=True)(function)


@row_operation
def move(row: Row, count, source, target):
    row.move(source, target, count)


@row_operation
def fill(row: Row, width, target, ones):
    """Zeros, or ones where `ones` is 1."""
    value = row.from_integer(ones)
    for at in row.lanes(width):
        row.store(target, at, value)


@row_operation
def prefetch_read(row: Row, width, source):
    row.prefetch(source, width, write=False)


@row_operation
def prefetch_write(row: Row, width, target):
    row.prefetch(target, width, write=True)


@compiled
def visit(p, rows, t):
    """The row of memory that step t visits."""
    k = p.length - 1 - t if p.reverse else t
    return rows[k] if rows.size else k


@compiled
def fetch(tag, lanes, block, source, scratch):
    """Address of a readable row of `block` values: the source itself, or its copy where it ends too early."""
    if lanes == block:
        return source
    move(tag, lanes, source, scratch)
    return scratch


def readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype` with its last axis contiguous; itself where it already is."""
    tensor = tensor.detach()
    if tensor.dtype == dtype and tensor.stride(-1) == 1:
        return tensor
    return empty(*tensor.shape, dtype=dtype).copy_(tensor)


class Tasks:
    """A call cut into tasks: a batch item and a block of at most `largest` channels, padded to whole vectors.

    There are no fewer tasks than threads, if the channels allow. Arrays per channel go to the kernels as
    (g * blocks, m, block).
    """

    def __init__(self, u: Tensor, groups: int, largest: int, rows: Tensor | None):
        self.dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
        self.tag = np.float64(0) if self.dtype == torch.float64 else np.float32(0)
        self.rows = np.empty(0, np.int32) if rows is None else rows.numpy()
        self.batch, self.length, self.channels = u.shape
        self.groups, self.group = groups, self.channels // groups
        wanted = max(-(-self.group // largest), torch.get_num_threads() // (self.batch * groups))
        self.block = -(-self.group // (wanted * VECTOR)) * VECTOR
        self.blocks = -(-self.group // self.block)
        self.ranges = split(self.batch * groups * self.blocks)

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    def pad(self, per_channel: Tensor | None) -> Tensor:
        """(d, m) or (d,) -> (g * blocks, m, block), zeros behind each group's last channel; None is zeros."""
        if per_channel is None:
            per_channel = torch.zeros(self.channels)
        grouped = per_channel.detach().to(self.dtype).reshape(self.groups, self.group, -1)
        padded = F.pad(grouped, (0, 0, 0, self.blocks * self.block - self.group))
        return padded.reshape(self.groups * self.blocks, self.block, -1).transpose(1, 2).contiguous()

    def unpad(self, per_task: Tensor) -> Tensor:
        """(b, g * blocks, m, block) -> (d, m), summed over the batch: the adjoint of `pad`."""
        blocks = per_task.sum(0).transpose(1, 2).reshape(self.groups, self.blocks * self.block, -1)
        return blocks[:, : self.group].reshape(self.channels, -1)

    def empty(self, *shape: int) -> Tensor:
        return empty(*shape, dtype=self.dtype)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype)

    def sums(self, per_channel: int) -> Tensor:
        """Zeros for what each task sums up: (b, g * blocks, per_channel, block)."""
        return self.zeros(self.batch, self.groups * self.blocks, per_channel, self.block)

    def place(self, tensor: Tensor | None, n_strides: int = 0) -> tuple[int, ...]:
        """Address and first strides in bytes; all 0 for None."""
        if tensor is None:
            return (0,) * (n_strides + 1)
        return tensor.data_ptr(), *(stride * self.size for stride in tensor.stride()[:n_strides])

    def run(self, kernel: Callable[..., None], scratch: int, *arguments: Any) -> None:
        """kernel(tag, *arguments, rows, first, last, thread, address of `scratch` zeros) in every thread."""

        def work(thread: int) -> None:
            # numpy's, as torch would zero this much in threads of its own, which then spin on our cores
            own = np.zeros(scratch * self.size + CACHE_LINE, np.uint8)
            address = -(-own.ctypes.data // CACHE_LINE) * CACHE_LINE
            kernel(self.tag, *arguments, self.rows, *self.ranges[thread], thread, address)

        run_in_threads(work, len(self.ranges))
