"""Reference implementations, slow on purpose; every backend must match their outputs and gradients.

Shapes: b batch, l tokens, d channels, g groups, n states, w taps; u, delta, z (b, l, d); A (d, n); B, C (b,
g, l, n); D, bias (d,). Linear attention has h heads of p channels instead. `indices` (l,) is the token of
each step; `reverse` runs from the last step to the first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.precision import accumulation_dtype


def scan_indices(length: int, indices: Tensor | None, reverse: bool, device: torch.device) -> Tensor:
    """Return the token of each step in the order of the scan, int64 (l,)."""
    order = torch.arange(length, device=device) if indices is None else indices.to(device).long()
    return order.flip(0) if reverse else order


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    indices: Tensor | None,
    softplus: bool,
    reverse: bool,
) -> Tensor:
    """Compute the selective scan as Mamba's paper defines it [1], one token at a time.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t    [1, eq. 2a; A by zero-order hold, B by Euler's rule]
        y_t = (C_t h_t + D u_t) silu(z_t)                 [1, eq. 2b, fig. 3: the gate]

    Returns y (b, l, d) in u's dtype, computed in float32 (float64 for float64). Memory O(b l d n), time O(l).

    [1] Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces, arXiv:2312.00752.
    """
    dtype = u.dtype
    work = accumulation_dtype(u)
    u, delta, A, B, C = (t.to(work) for t in (u, delta, A, B, C))
    D, z, bias = (None if t is None else t.to(work) for t in (D, z, bias))
    delta = delta if bias is None else delta + bias
    delta = F.softplus(delta) if softplus else delta
    channels_per_group = u.shape[2] // B.shape[1]
    Bs, Cs = (t.repeat_interleave(channels_per_group, dim=1).unbind(2) for t in (B, C))  # l times (b, d, n)
    us, deltas = u.unbind(1), delta.unbind(1)
    h = u.new_zeros(u.shape[0], *A.shape)  # (b, d, n)
    ys: list[Tensor] = [h] * u.shape[1]
    for t in scan_indices(u.shape[1], indices, reverse, u.device).tolist():
        h = torch.exp(deltas[t][..., None] * A) * h + (deltas[t] * us[t])[..., None] * Bs[t]
        ys[t] = (h * Cs[t]).sum(-1)
    y = torch.stack(ys, dim=1)
    y = y if D is None else y + D * u
    return (y if z is None else y * F.silu(z)).to(dtype)


def causal_conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Filter each channel over the last w steps: y_t = silu(bias + sum_k weight_k x_{t-w+1+k}).

    Shape: x (b, l, d); weight (d, w); bias (d,) -> (b, l, d) in x's dtype. Precision as in
    `selective_scan_reference`.
    """
    work = accumulation_dtype(x)
    order = scan_indices(x.shape[1], indices, reverse, x.device)
    taps = weight.shape[1]
    ordered = F.pad(x.to(work)[:, order], (0, 0, taps - 1, 0))  # (b, w - 1 + l, d)
    y = torch.zeros_like(ordered[:, taps - 1 :]) if bias is None else bias.to(work)
    for k in range(taps):
        y = y + weight[:, k].to(work) * ordered[:, k : k + x.shape[1]]
    y = F.silu(y) if silu else y
    return torch.empty_like(y).index_copy(1, order, y).to(x.dtype)


def linear_attention_reference(
    values: Tensor,
    log_decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    indices: Tensor | None,
    reverse: bool,
) -> Tensor:
    """Compute linear attention with decay, one token at a time, by Mamba-2's equations [2].

        S_t = exp(log_decay_t) S_{t-1} + v_t k_t^T,    y_t = S_t q_t          [2, eq. 16 with a scalar A_t]

    Shape: values (b, l, h, p); log_decay (b, l, h); keys, queries (b, l, g, n) -> y (b, l, h, p) in values'
    dtype. Precision as in `selective_scan_reference`. Memory O(b l h p n), time O(l).

    [2] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
    """
    work = accumulation_dtype(values)
    heads_per_group = values.shape[2] // keys.shape[2]
    vs, decays = values.to(work).unbind(1), log_decay.to(work).exp().unbind(1)
    ks, qs = (t.to(work).repeat_interleave(heads_per_group, dim=2).unbind(1) for t in (keys, queries))
    S = values.new_zeros(*vs[0].shape, keys.shape[3], dtype=work)  # (b, h, p, n)
    ys: list[Tensor] = [S] * len(vs)
    for t in scan_indices(len(vs), indices, reverse, values.device).tolist():
        S = decays[t][..., None, None] * S + vs[t][..., None] * ks[t][..., None, :]
        ys[t] = (S * qs[t][..., None, :]).sum(-1)
    return torch.stack(ys, dim=1).to(values.dtype)
