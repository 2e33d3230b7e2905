"""The CUDA kernels of the mamba_ssm package, where it is installed: for comparison, and where ours cannot
run.

They know one walk, forwards, channels first; other walks are copies there and back, as in the papers' code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.reference import visited

MOST_STATES = 256


def selective_scan(u, delta, A, B, C, D, z, bias, rows, softplus: bool, reverse: bool) -> Tensor:
    """Shapes and arguments as in `reference` -> y (b, l, d) in u's dtype. ValueError for float64 and for more
    than 256 states, which the kernels do not take."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if not takes(u, A):
        raise ValueError(
            f"mamba_ssm's kernels take float32 or half precision and at most {MOST_STATES} states, got "
            f"{u.dtype} and {A.shape[1]}; choose another backend."
        )
    walk = None if rows is None else visited(u.shape[1], rows, reverse, u.device)
    u_, delta, B, C = (_walked(t, walk, reverse).to(u.dtype).transpose(-1, -2) for t in (u, delta, B, C))
    z = None if z is None else _walked(z, walk, reverse).to(u.dtype).transpose(-1, -2)
    A, D, bias = (None if t is None else t.float() for t in (A, D, bias))
    y = selective_scan_fn(u_, delta, A, B, C, D, z, bias, softplus).transpose(-1, -2)
    return _walked(y, None if walk is None else walk.argsort(), reverse).to(u.dtype)


def takes(u: Tensor, A: Tensor) -> bool:
    """Whether the kernels are made for numbers of this kind and so many states."""
    return u.dtype != torch.float64 and A.shape[-1] <= MOST_STATES


def _walked(sequence: Tensor, walk: Tensor | None, reverse: bool) -> Tensor:
    """(..., l, c) in the order of the steps."""
    if walk is not None:
        return sequence.index_select(-2, walk)
    return sequence.flip(-2) if reverse else sequence
