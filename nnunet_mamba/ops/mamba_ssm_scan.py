"""The kernels of the mamba_ssm package, where it is installed: for comparison, and where ours cannot run.

They scan forwards in memory order, channels first; other directions copy the sequences there and back, as the
papers' code does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_mamba.ops.reference import scan_indices

MOST_STATES = 256
CHUNK = 256  # of Mamba-2's kernels: their authors' default


def selective_scan(u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool) -> Tensor:
    """Return y (b, l, d) in u's dtype; shapes and arguments as in `reference`.

    Raises ValueError for float64 and for more than 256 states, which the kernels do not support.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if not is_supported(u, A):
        raise ValueError(
            f"mamba_ssm's kernels take float32 or half precision and at most {MOST_STATES} states, got "
            f"{u.dtype} and {A.shape[1]}; choose another backend."
        )
    order = None if indices is None else scan_indices(u.shape[1], indices, reverse, u.device)
    u_, delta, B, C = (_reorder(t, order, reverse).to(u.dtype).transpose(-1, -2) for t in (u, delta, B, C))
    z = None if z is None else _reorder(z, order, reverse).to(u.dtype).transpose(-1, -2)
    A, D, bias = (None if t is None else t.float() for t in (A, D, bias))
    y = selective_scan_fn(u_, delta, A, B, C, D, z, bias, softplus).transpose(-1, -2)
    return _reorder(y, None if order is None else order.argsort(), reverse).to(u.dtype)


def mamba2_scan(x, dt, A, B, C, D, dt_bias, indices, reverse: bool) -> Tensor:
    """Return Mamba-2's S_t C_t + D x_t with step sizes softplus(dt + dt_bias), in one direction.

    Shape: x (b, l, h, p), dt (b, l, h), A and dt_bias (h,), D (h, 1 or p), B and C (b, l, g, n) ->
    (b, l, h, p) in x's dtype.
    """
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    order = None if indices is None else scan_indices(x.shape[1], indices, reverse, x.device)
    x, dt, B, C = (_reorder(t.flatten(2), order, reverse).view(t.shape) for t in (x, dt, B, C))
    y = mamba_chunk_scan_combined(x, dt, A, B, C, CHUNK, D=D.squeeze(1), dt_bias=dt_bias, dt_softplus=True)
    back = None if order is None else order.argsort()
    return _reorder(y.flatten(2), back, reverse).view(x.shape)


def is_supported(u: Tensor, A: Tensor) -> bool:
    """Return whether the kernels support this dtype and this number of states."""
    return u.dtype != torch.float64 and A.shape[-1] <= MOST_STATES


def _reorder(sequence: Tensor, order: Tensor | None, reverse: bool) -> Tensor:
    """Return a sequence (..., l, c) in the order of the steps."""
    if order is not None:
        return sequence.index_select(-2, order)
    return sequence.flip(-2) if reverse else sequence
