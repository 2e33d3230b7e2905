"""Mamba on tokens of a voxel grid: selective state spaces that walk over voxels.

b batch, l = prod(grid) tokens, C channels, E = expand * C inner channels, n states, r = dt_rank.

[1] Gu and Dao, Mamba, arXiv:2312.00752.
[2] Zhu et al., Vision Mamba, arXiv:2401.09417: several walks share the projections in and out and the gate.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.ops import causal_conv1d, selective_scan
from nnunet_mamba.scan_order import ScanPath

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # range of the initial step sizes [1, sec. 3.6]


def initial_dt_bias(*shape: int) -> Tensor:
    """Biases whose softplus is a step size drawn log-uniformly from [DT_MIN, DT_MAX]."""
    dt = torch.exp(torch.empty(shape).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp(min=DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))


def input_dependent_scan(
    u: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    rows: Tensor | None,
    reverse: bool,
    z: Tensor | None = None,
) -> Tensor:
    """The scan whose delta, B and C are linear in its input u [1, alg. 2], along one walk.

    Shapes: u, gate z and the result (b, l, E), tokens in memory order; x_proj (r + 2n, E), dt_proj (E, r),
    dt_bias and D (E,), A_log (E, n); rows (l,), as `ScanPath.rows` gives it.
    """
    d_state = A_log.shape[1]
    dt, B, C = F.linear(u, x_proj).split([dt_proj.shape[1], d_state, d_state], dim=-1)
    y = selective_scan(
        u.transpose(1, 2),
        F.linear(dt, dt_proj).transpose(1, 2),
        -A_log.exp(),
        B.transpose(1, 2),
        C.transpose(1, 2),
        D,
        None if z is None else z.transpose(1, 2),
        dt_bias,
        delta_softplus=True,
        reverse=reverse,
        rows=rows,
    )
    return y.transpose(1, 2)


class SelectiveSSM(nn.Module):
    """One walk's own weights: causal convolution, input-dependent delta, B, C, and A, D [1, alg. 2]."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int):
        super().__init__()
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(d_inner))

    def scan(self, x: Tensor, z: Tensor, path: ScanPath, grid: tuple[int, ...]) -> Tensor:
        """x, gate z (b, l, E) -> (b, l, E), tokens in memory order throughout."""
        shape = x.shape
        sequences = (shape[0] * path.n_sequences(grid), -1, shape[2])
        x, z = x.reshape(sequences), z.reshape(sequences)
        rows = path.rows(grid, x.device)
        u = causal_conv1d(
            x.transpose(1, 2),
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            "silu",
            reverse=path.backwards,
            rows=rows,
        )  # (b, E, l)
        y = input_dependent_scan(
            u.transpose(1, 2),
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            self.A_log,
            self.D,
            rows,
            path.backwards,
            z,
        )
        return y.reshape(shape)


class Mamba(SelectiveSSM):
    """A Mamba block over one or more walks; (b, l, C) -> (b, l, C).

        x, z = W_in t;    out = W_out sum_k scan_k(x) silu(z)                           [2, alg. 1]

    With one walk this is mamba_ssm's Mamba with its parameter names. Each further walk has a `SelectiveSSM`
    of its own in `further` and shares the rest.
    """

    def __init__(
        self,
        d_model: int,
        paths: tuple[ScanPath, ...],
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ):
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        super().__init__(d_inner, d_state, d_conv, dt_rank)
        self.paths = paths
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.further = nn.ModuleList(SelectiveSSM(d_inner, d_state, d_conv, dt_rank) for _ in paths[1:])

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        y = self.scan(x, z, self.paths[0], grid)
        for ssm, path in zip(self.further, self.paths[1:], strict=True):
            y = y + cast(SelectiveSSM, ssm).scan(x, z, path, grid)
        return self.out_proj(y)
