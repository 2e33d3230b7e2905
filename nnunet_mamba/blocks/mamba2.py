"""Mamba-2 on the tokens of a voxel grid: linear attention with one decay per head, along scan directions.

b batch, l = prod(grid) tokens, C channels, E = expand * C inner channels in h heads of p, G groups, n states.

[1] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.mamba import (
    DirectionalSSM,
    convolve_directions,
    group_directions,
    initial_dt_bias,
    stack_parameters,
)
from nnunet_mamba.ops import multi_directional_linear_attention
from nnunet_mamba.ops.backends import choose_backend
from nnunet_mamba.ops.mamba_ssm_scan import mamba2_scan
from nnunet_mamba.ops.precision import clamp_to_float16
from nnunet_mamba.scan_order import ScanDirection

HEADDIM = 80  # U-Mamba2's, arXiv:2509.12069
SLOWEST, FASTEST = 1.0, 16.0  # range of the initial rates of decay, exp(A_log)
EPS = 1e-5


def choose_headdim(d_inner: int, headdim: int | None = None) -> int:
    """Return the channels of a head: those given, else HEADDIM where it divides d_inner.

    Where it does not: the largest divisor below it that leaves a multiple of 8 heads, else the largest. That
    rule is ours; U-Mamba2 cannot be built there. Raises ValueError if the one given does not divide d_inner.
    """
    divisors = [size for size in range(1, min(HEADDIM, d_inner) + 1) if d_inner % size == 0]
    if headdim is None:
        in_eights = [size for size in divisors if d_inner // size % 8 == 0]
        return HEADDIM if HEADDIM in divisors else max(in_eights or divisors)
    if headdim < 1 or d_inner % headdim:
        raise ValueError(
            f"headdim {headdim} does not divide the {d_inner} inner channels; choose a divisor, or None for "
            f"{choose_headdim(d_inner)}."
        )
    return headdim


class HeadwiseSSM(nn.Module):
    """Weights of one direction: causal convolution of x, B and C together, `width` channels; step and decay
    per head; n_skips of D, as many as heads or as channels of x."""

    def __init__(self, width: int, n_heads: int, n_skips: int, d_conv: int):
        super().__init__()
        self.dt_bias = nn.Parameter(initial_dt_bias(n_heads))
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(SLOWEST, FASTEST).log())
        self.D = nn.Parameter(torch.ones(n_skips))
        self.conv1d = nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1)


def scan_directions(
    ssms: Sequence[DirectionalSSM],
    xBC: Tensor,
    dt: Tensor,
    headdim: int,
    groups: int,
    grid: tuple[int, ...],
) -> Tensor:
    """Return the sum over directions, each with weights of its own, of the scans of heads of `headdim`.

    Shape: xBC (b, l, E + 2 G n), dt (b, l, h) -> (b, l, E) in float32 or float64, tokens in memory order
    throughout. All directions divide the tokens into equally many sequences.
    """
    u, indices, reverse = convolve_directions(ssms, xBC, grid)
    step = dt.reshape(*u.shape[1:3], -1)
    dt_bias, A_log, D = (stack_parameters(ssms, name)[:, None, None] for name in ("dt_bias", "A_log", "D"))
    y = input_dependent_attention(u, step, dt_bias, A_log, D, headdim, groups, indices, reverse)
    return y.reshape(*dt.shape[:2], -1)


def input_dependent_attention(
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    headdim: int,
    groups: int,
    indices: Tensor | None,
    reverse: Sequence[bool],
) -> Tensor:
    """Return the sum of k directions' S_t C_t + D x_t (see `Mamba2`), in float32 or float64.

    Shape: u (k, b, l, E + 2 G n): x, B and C; dt (b, l, h); dt_bias, A_log (k, 1, 1, h); D (k, 1, 1, h or E);
    indices (k, l) -> (b, l, h, headdim).
    """
    n_heads = dt.shape[2]
    x, B, C = u.split([n_heads * headdim, *[(u.shape[3] - n_heads * headdim) // 2] * 2], dim=-1)
    x, B, C = x.unflatten(-1, (-1, headdim)), B.unflatten(-1, (groups, -1)), C.unflatten(-1, (groups, -1))
    D = D.unflatten(-1, (n_heads, -1))
    if choose_backend(None, u.device.type) == "mamba_ssm" and u.dtype != torch.float64:
        return _by_mamba_ssm(x, dt, A_log, B, C, D, dt_bias, indices, reverse)
    step = F.softplus(dt.to(dt_bias.dtype) + dt_bias)  # (k, b, l, h), not yet per channel
    y = multi_directional_linear_attention(
        clamp_to_float16(x * clamp_to_float16(step[..., None].to(x.dtype))),
        step * -A_log.exp(),
        B,
        C,
        reverse=reverse,
        indices=indices,
    )
    y = clamp_to_float16(y)  # not normalised yet
    for own_D, own_x in zip(D, x, strict=True):
        y = torch.addcmul(y, own_x, own_D)
    return y


def _by_mamba_ssm(x, dt, A_log, B, C, D, dt_bias, indices: Tensor | None, reverse: Sequence[bool]) -> Tensor:
    """Return `input_dependent_attention` by mamba_ssm's kernels, one direction after the other."""
    total = None
    for k, is_reversed in enumerate(reverse):
        own = (x[k], dt, -A_log[k].exp().flatten(), B[k], C[k], D[k, 0, 0], dt_bias[k].flatten())
        y = mamba2_scan(*own, None if indices is None else indices[k], is_reversed)
        y = clamp_to_float16(y).to(dt_bias.dtype)
        total = y if total is None else total + y
    assert total is not None
    return total


class Mamba2(HeadwiseSSM):
    """Mamba-2 block over one or more directions; (b, l, C) -> (b, l, C).

        z, xBC, dt = W_in t;    y = sum_k S_k C_k + D_k x_k;    out = W_out RMSNorm(y silu(z))

    with S_t = exp(-exp(A_log) step_t) S_{t-1} + step_t x_t B_t^T, step = softplus(dt + dt_bias) per head, and
    x, B, C = silu(conv(xBC)) [1, sec. 7; its code for the norm behind the gate].

    With one direction this is mamba_ssm's Mamba2Simple with its parameter names, and with groups its Mamba2.
    Each further direction has a `HeadwiseSSM` of its own in `further` and shares the rest.

    Args:
        headdim: channels p of a head, a divisor of E; None: `choose_headdim`.
        groups: of heads, G, each with B, C and a norm of its own; a divisor of the number of heads.
        channel_D: whether D is per channel, not per head.

    Raises ValueError for headdim or groups that are no such divisors.
    """

    def __init__(
        self,
        d_model: int,
        directions: tuple[ScanDirection, ...],
        *,
        d_state: int = 32,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int | None = None,
        groups: int = 1,
        channel_D: bool = False,
    ):
        d_inner = expand * d_model
        headdim = choose_headdim(d_inner, headdim)
        n_heads, width = d_inner // headdim, d_inner + 2 * groups * d_state
        if n_heads % groups:
            raise ValueError(f"{n_heads} heads of {headdim} channels cannot be split into {groups} groups.")
        of_direction = (width, n_heads, d_inner if channel_D else n_heads, d_conv)
        super().__init__(*of_direction)
        self.headdim, self.groups, self.directions = headdim, groups, directions
        self.widths = (d_inner, width, n_heads)  # of z, xBC, dt
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.norm = nn.RMSNorm(d_inner, eps=EPS)  # never called: `forward` takes its weight
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.further = nn.ModuleList(HeadwiseSSM(*of_direction) for _ in directions[1:])

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        z, xBC, dt = self.in_proj(tokens).split(self.widths, dim=-1)
        sizes = (self.headdim, self.groups, grid)
        groups = group_directions([self, *self.further], self.directions, grid)
        parts = [scan_directions(group, xBC, dt, *sizes) for group in groups]
        y = sum(parts[1:], parts[0])
        gated = (y * F.silu(z.to(y.dtype))).unflatten(-1, (self.groups, -1))
        normalised = F.rms_norm(gated, gated.shape[-1:], eps=EPS).flatten(-2)
        # The norm's weight is applied to the projection's: over all tokens it would take as long as the scan
        return clamp_to_float16(F.linear(normalised, self.out_proj.weight * self.norm.weight))
