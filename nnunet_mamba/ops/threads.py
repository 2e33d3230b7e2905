"""Our own small thread pool for kernels that release the GIL.

numba's threading layers abort under concurrent calls (workqueue) or kill forked workers (OpenMP); nnU-Net
does both. This pool follows `torch.get_num_threads()` and is forgotten in forked children, which start their
own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
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


def split(n_tasks: int) -> list[tuple[int, int]]:
    """Even ranges [first, last) of the tasks, one per thread that torch may use."""
    n_parts = max(1, min(torch.get_num_threads(), n_tasks))
    edges = [n_tasks * part // n_parts for part in range(n_parts + 1)]
    return list(pairwise(edges))
