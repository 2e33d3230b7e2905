"""The selective scan and linear attention for export to ONNX: one loop over chunks, which becomes ONNX's
operator Scan, so that the graph is as large for a whole volume as for a few voxels.

Within a chunk the selective scan is Hillis and Steele's: after k rounds each token has the contributions of
the 2^k tokens up to itself. Linear attention is products of matrices, as in `torch_linear_attention`. Both
have few operations, since each is traced, and are for inference only. Shapes as in `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.reference import scan_indices

CHUNK = 64


def selective_scan(u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool) -> Tensor:
    """Return y (b, l, d) in u's dtype. Raises ImportError if this torch has no scan to export."""
    work = accumulation_dtype(u)
    order = scan_indices(u.shape[1], indices, reverse, u.device)
    u_, step = u.to(work)[:, order], delta.to(work)[:, order]
    B, C = (t.to(work).transpose(1, 2)[:, order] for t in (B, C))  # (b, l, g, n)
    step = step if bias is None else step + bias.to(work)
    step = F.softplus(step) if softplus else step
    A, channels_per_group = A.to(work), u.shape[2] // B.shape[2]

    def scan_chunk(h, step, drive, B, C, A):
        B, C = (t.repeat_interleave(channels_per_group, dim=2) for t in (B, C))
        states = linear_scan(torch.exp(step[..., None] * A), drive[..., None] * B, h)
        last = states[:, -1].clone(memory_format=torch.contiguous_format)  # strides as `start`'s
        return [last, (states * C).sum(-1)]

    start = u_.new_zeros(u.shape[0], *A.shape)
    sequences = [split_chunks(t) for t in (step, step * u_, B, C)]
    _, y = _scan_operator()(scan_chunk, [start], sequences, (A,))
    y = y.movedim(0, 1).flatten(1, 2)[:, : u.shape[1]]
    y = y if D is None else y + D.to(work) * u_
    y = torch.empty_like(y).index_copy(1, order, y)
    return (y if z is None else y * F.silu(z.to(work))).to(u.dtype)


def linear_attention(values, log_decay, keys, queries, indices, reverse: bool) -> Tensor:
    """Return y (b, l, h, p) in values' dtype. Raises ImportError if this torch has no scan to export."""
    work, heads_per_group = accumulation_dtype(values), values.shape[2] // keys.shape[2]
    length, order = values.shape[1], scan_indices(values.shape[1], indices, reverse, values.device)

    def attend_chunk(state, values, logs, keys, queries):
        """Return the state after a chunk (b, h, n, p) and its outputs (b, CHUNK, h, p)."""
        keys, queries = (t.repeat_interleave(heads_per_group, dim=2).transpose(1, 2) for t in (keys, queries))
        values, total = values.transpose(1, 2), logs.transpose(1, 2).cumsum(-1)[..., None]
        future = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=values.device).triu(1)
        decay = (total - total.transpose(-1, -2)).masked_fill(future, -torch.inf).exp().to(work)
        y = (queries @ keys.transpose(-1, -2) * decay) @ values + total.exp().to(work) * (queries @ state)
        last = total[:, :, -1:]
        own = keys.transpose(-1, -2) @ (values * (last - total).exp().to(work))
        return [last.exp().to(work) * state + own, y.transpose(1, 2).contiguous()]

    start = values.new_zeros(values.shape[0], values.shape[2], keys.shape[3], values.shape[3], dtype=work)
    values_, keys, queries = (t.to(work) for t in (values, keys, queries))
    sequences = [split_chunks(t[:, order]) for t in (values_, log_decay.double(), keys, queries)]
    _, y = _scan_operator()(attend_chunk, [start], sequences, ())
    y = y.movedim(0, 1).flatten(1, 2)[:, :length]
    return torch.empty_like(y).index_copy(1, order, y).to(values.dtype)


def _scan_operator() -> Callable[..., Any]:
    """Import torch's scan, without its public wrapper, which compiles and is slow."""
    try:
        from torch._higher_order_ops.scan import scan_op
    except ImportError as error:
        raise ImportError("Export to ONNX needs PyTorch 2.8 or newer, with its scan.") from error
    return scan_op


def split_chunks(sequence: Tensor) -> Tensor:
    """Cut a sequence (b, l, ...) into chunks (chunks, b, CHUNK, ...), padded with zeros at the end."""
    padding = (0, 0) * (sequence.ndim - 2) + (0, -sequence.shape[1] % CHUNK)
    return F.pad(sequence, padding).unflatten(1, (-1, CHUNK)).movedim(1, 0).contiguous()


def linear_scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """Return all h_t = decay_t h_{t-1} + drive_t, with h_{-1} = start.

    Shape: decay, drive (b, l, d, n), start (b, d, n) -> (b, l, d, n).
    """
    reach = 1
    while reach < decay.shape[1]:
        before = (0, 0, 0, 0, reach, 0)
        drive = drive + decay * F.pad(drive[:, :-reach], before)
        decay = decay * F.pad(decay[:, :-reach], before, value=1.0)
        reach *= 2
    return drive + decay * start[:, None]
