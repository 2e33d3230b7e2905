"""The selective scan in plain torch operations, for any device: chunks in sequence, each in two levels.

A chunk of up to SIDE * SIDE tokens is SIDE pieces of SIDE tokens. All pieces are scanned at once, starting at
zero; then the states at the pieces' ends are passed on, and what they contribute is added. Backward
recomputes chunk by chunk from the states kept at the chunks' starts; its own recurrence is the same one, run
from the end. There are no matrix products, which autocast would round.

Shapes and arguments as in `reference`; `states` (b, chunks, n, d) holds the state before each chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.constants import CHUNKS, chunk_count
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.reference import scan_indices

TAKES_ALL_DIRECTIONS = False
SIDE = 16
CHUNK = CHUNKS["torch"]  # at most SIDE * SIDE, in two levels


def linear_scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """Return all h_t = decay_t h_{t-1} + drive_t, with h_{-1} = start.

    Shape: decay, drive (b, l, d, n), start (b, d, n) -> (b, l, d, n).
    """
    length = decay.shape[1]
    padding = (0, 0, 0, 0, 0, -length % SIDE)
    # (b, pieces, side, d, n)
    decay, drive = (F.pad(t, padding).unflatten(1, (-1, SIDE)) for t in (decay, drive))
    h, through = drive[:, :, 0], decay[:, :, 0]
    local, products = [h], [through]
    for k in range(1, SIDE):
        h, through = decay[:, :, k] * h + drive[:, :, k], decay[:, :, k] * through
        local.append(h)
        products.append(through)
    carry = [start]
    for piece in range(decay.shape[1] - 1):
        carry.append(products[-1][:, piece] * carry[-1] + local[-1][:, piece])
    states = torch.stack(local, 2) + torch.stack(products, 2) * torch.stack(carry, 1)[:, :, None]
    return states.flatten(1, 2)[:, :length]


class _Inputs(NamedTuple):
    """Inputs of a call in the order of the scan and in the accumulation dtype; delta after bias and
    softplus."""

    u: Tensor  # (b, l, d)
    raw: Tensor  # (b, l, d), delta + bias
    step: Tensor  # (b, l, d)
    A: Tensor  # (d, n)
    B: Tensor  # (b, l, g, n)
    C: Tensor  # (b, l, g, n)
    D: Tensor | None
    z: Tensor | None  # (b, l, d)
    order: Tensor  # (l,)

    def chunk(self, index: int) -> _Inputs:
        """Return the inputs of one chunk."""
        part = slice(index * CHUNK, (index + 1) * CHUNK)
        sequences = {name: getattr(self, name)[:, part] for name in ("u", "raw", "step", "B", "C")}
        return self._replace(
            **sequences, z=None if self.z is None else self.z[:, part], order=self.order[part]
        )

    def per_channel(self, grouped: Tensor) -> Tensor:
        """Repeat groups for their channels, (b, l, g, n) -> (b, l, d, n)."""
        return grouped.repeat_interleave(self.u.shape[2] // grouped.shape[2], dim=2)

    def states(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decays and the states of a chunk, both (b, l, d, n)."""
        decay = torch.exp(self.step[..., None] * self.A)
        drive = (self.step * self.u)[..., None] * self.per_channel(self.B)
        return decay, linear_scan(decay, drive, start)

    def ungated(self, states: Tensor) -> Tensor:
        """Return y before the gate (b, l, d)."""
        y = (states * self.per_channel(self.C)).sum(-1)
        return y if self.D is None else y + self.D * self.u


def _inputs(u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool) -> _Inputs:
    """Bring the arguments of a call into the order of the scan."""
    work = accumulation_dtype(u)
    order = scan_indices(u.shape[1], indices, reverse, u.device)
    u, delta = u.to(work)[:, order], delta.to(work)[:, order]
    B, C = (t.to(work).transpose(1, 2)[:, order] for t in (B, C))
    z, D = None if z is None else z.to(work)[:, order], None if D is None else D.to(work)
    raw = delta if bias is None else delta + bias.to(work)
    return _Inputs(u, raw, F.softplus(raw) if softplus else raw, A.to(work), B, C, D, z, order)


def forward(
    u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: bool, states: Tensor | None
) -> Tensor:
    """Return y (b, l, d) in u's dtype; fill `states`, those before each chunk (b, chunks, n, d)."""
    whole = _inputs(u, delta, A, B, C, D, z, bias, indices, softplus, reverse)
    y = torch.empty_like(whole.u)
    h = y.new_zeros(u.shape[0], *A.shape)
    for index in range(chunk_count("torch", u.shape[1])):
        chunk = whole.chunk(index)
        if states is not None:
            states[:, index] = h.transpose(1, 2)
        _, hs = chunk.states(h)
        h = hs[:, -1]
        out = chunk.ungated(hs)
        y[:, chunk.order] = out if chunk.z is None else out * F.silu(chunk.z)
    return y.to(u.dtype)


def backward(
    dy,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    bias,
    indices,
    states,
    softplus: bool,
    reverse: bool,
    du: Tensor,
    ddelta: Tensor,
) -> tuple[Tensor, ...]:
    """Return gradients of A, B, C, D, z (empty without z) and bias, in the accumulation dtype; fill du and
    ddelta (b, l, d)."""
    whole = _inputs(u, delta, A, B, C, D, z, bias, indices, softplus, reverse)
    dy = dy.to(whole.u.dtype)
    dz = torch.empty_like(whole.u) if z is not None else whole.u.new_empty(0)
    dB, dC = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (whole.B, whole.C))
    dA, dD = torch.zeros_like(whole.A), whole.u.new_zeros(u.shape[2])
    later = torch.zeros_like(states[:, 0].transpose(1, 2))  # the gradient that reaches a chunk's last state
    for index in reversed(range(chunk_count("torch", u.shape[1]))):
        chunk = whole.chunk(index)
        start = states[:, index].transpose(1, 2)
        decay, h = chunk.states(start)
        dout = dy[:, chunk.order]
        if chunk.z is not None:
            s = torch.sigmoid(chunk.z)
            dz[:, chunk.order] = dout * chunk.ungated(h) * s * (1 + chunk.z * (1 - s))
            dout = dout * chunk.z * s
        dh = _reversed_scan(decay, dout[..., None] * chunk.per_channel(chunk.C), later)
        d_exponent = dh * decay * torch.cat([start[:, None], h[:, :-1]], 1)
        later = decay[:, 0] * dh[:, 0]
        through_u = (dh * chunk.per_channel(chunk.B)).sum(-1)
        du[:, chunk.order] = through_u * chunk.step + (0 if chunk.D is None else dout * chunk.D)
        d_step = through_u * chunk.u + (d_exponent * chunk.A).sum(-1)
        ddelta[:, chunk.order] = d_step * torch.sigmoid(chunk.raw) if softplus else d_step
        dA += (d_exponent * chunk.step[..., None]).sum((0, 1))
        dD += (dout * chunk.u).sum((0, 1))
        groups = (chunk.B.shape[2], -1)
        dB[:, chunk.order] = (dh * (chunk.step * chunk.u)[..., None]).unflatten(2, groups).sum(3)
        dC[:, chunk.order] = (h * dout[..., None]).unflatten(2, groups).sum(3)
    return dA, dB.transpose(1, 2), dC.transpose(1, 2), dD, dz, ddelta.sum((0, 1))


def _reversed_scan(decay: Tensor, drive: Tensor, later: Tensor) -> Tensor:
    """Return all g_t = drive_t + decay_{t+1} g_{t+1}, where `later` is the product after the last step."""
    following = torch.cat([decay[:, 1:], torch.ones_like(decay[:, :1])], 1)
    return linear_scan(following.flip(1), drive.flip(1), later).flip(1)
