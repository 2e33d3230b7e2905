"""Rows of the matrix that a selective scan is, for chosen tokens: MM-UNet's maps of attention [1, fig. 4].

Unrolled, the scan of one channel is y = M u with

    M[t, s] = C_t (prod_{s<r<=t} Abar_r) Bbar_s,   Abar_r = exp(delta_r A),   Bbar_s = delta_s B_s,

lower triangular in the order of the scan. Row t says how much token s counts in what the scan gives to token
t, before the gate and without the direct term D u_t. l tokens, d channels, n states; M is never built: a row
takes O(l d) memory. All is in float64.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.blocks.mamba import Mamba, SelectiveSSM
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.ops.reference import causal_conv1d_reference, scan_indices
from nnunet_mamba.scan_order import AXES, ScanDirection

CHUNK = 256  # steps at once


@dataclass(frozen=True)
class Scan:
    """One direction of one block over one map, its steps in the order of the scan.

    u, delta  (g, l, d) of g sequences, one after the other in memory; mostly g = 1
    A         (d, n), negative
    B, C      (g, l, n)
    tokens    (l,) the token of its sequence that each step visits
    """

    direction: str
    grid: tuple[int, ...]
    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    tokens: Tensor

    def row(self, sequence: int, step: int) -> Tensor:
        """M[step, :] of every channel (l, d): backwards from `step`, the decays multiply on the way."""
        delta, B, C = self.delta[sequence], self.B[sequence], self.C[sequence, step]
        row = torch.zeros_like(delta)
        elapsed = torch.zeros_like(delta[0])  # sum of delta from behind the chunk to `step`
        for end in range(step + 1, 0, -CHUNK):
            chunk = slice(max(end - CHUNK, 0), end)
            sums = delta[chunk].flip(0).cumsum(0).flip(0) + elapsed
            since = torch.cat((sums[1:], elapsed[None]))  # (c, d), sum over s < r <= step
            decay = torch.exp(since[..., None] * self.A)  # (c, d, n)
            row[chunk] = delta[chunk] * (decay @ (C * B[chunk])[..., None]).squeeze(-1)
            elapsed = sums[0]
            if not decay[0].any():  # what lies further back has decayed to zero
                break
        return row

    def map_of(self, token: int) -> Tensor:
        """|M[t, s]| for the token t, counted in memory order of the grid, as a map over s (*grid): the mean
        over channels of the absolute value."""
        length = len(self.tokens)
        sequence, within = divmod(token, length)
        step = int((self.tokens == within).nonzero())
        folded = self.delta.new_zeros(len(self.delta), length)
        folded[sequence, self.tokens] = self.row(sequence, step).abs().mean(-1)
        return folded.view(self.grid)


def scans_of(block: Mamba | SS2D, x: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """The scans of `block` at its input `x` of one image, as its forward gets it, one at a time."""
    x = x.detach().double()
    return _of_mamba(block, x, grid) if isinstance(block, Mamba) else _of_ss2d(block, x, grid)


def direction_name(direction: ScanDirection, ndim: int) -> str:
    """As `scan_order` spells it."""
    if direction.pattern != "raster":
        word = direction.pattern + (str(direction.n) if direction.pattern == "interleave" else "")
    else:
        word = "".join(AXES[ndim][axis] for axis in direction.axes)
    return f"-{word}" if direction.reverse else word


def _of_mamba(block: Mamba, tokens: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """tokens (1, l, C)."""
    x = F.linear(tokens, block.in_proj.weight.detach().double().chunk(2)[0])
    for ssm, direction in zip([block, *block.further], block.directions, strict=True):
        assert isinstance(ssm, SelectiveSSM)
        p = {name: parameter.detach().double() for name, parameter in ssm.named_parameters()}
        sequences = x.reshape(direction.n_sequences(grid), -1, x.shape[-1])
        indices = direction.token_indices(grid, x.device)
        filters = p["conv1d.weight"].squeeze(1)
        u = causal_conv1d_reference(sequences, filters, p["conv1d.bias"], indices, True, direction.reverse)
        yield _make_scan(
            direction, grid, u, p["x_proj.weight"], p["dt_proj.weight"], p["dt_proj.bias"], p["A_log"]
        )


def _of_ss2d(block: SS2D, x: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """x (1, H, W, C)."""
    p = {name: parameter.detach().double() for name, parameter in block.named_parameters()}
    u = F.linear(x, p["in_proj.weight"].chunk(2)[0]).permute(0, 3, 1, 2)
    padding = (p["conv2d.weight"].shape[-1] - 1) // 2
    u = F.conv2d(u, p["conv2d.weight"], p["conv2d.bias"], padding=padding, groups=u.shape[1])
    u = F.silu(u).permute(0, 2, 3, 1).flatten(1, 2)
    A_logs = p["A_logs"].unflatten(0, (len(block.directions), -1))
    for k, direction in enumerate(block.directions):
        yield _make_scan(
            direction,
            grid,
            u,
            p["x_proj_weight"][k],
            p["dt_projs_weight"][k],
            p["dt_projs_bias"][k],
            A_logs[k],
        )


def _make_scan(
    direction: ScanDirection,
    grid: tuple[int, ...],
    u: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
) -> Scan:
    """delta, B and C of u [Mamba, alg. 2], in the order of the scan."""
    tokens = scan_indices(
        math.prod(grid) // len(u), direction.token_indices(grid, u.device), direction.reverse, u.device
    )
    u, d_state = u[:, tokens], A_log.shape[1]
    dt, B, C = F.linear(u, x_proj).split([dt_proj.shape[1], d_state, d_state], dim=-1)
    delta = F.softplus(F.linear(dt, dt_proj, dt_bias))
    return Scan(direction_name(direction, len(grid)), grid, u, delta, -A_log.exp(), B, C, tokens)
