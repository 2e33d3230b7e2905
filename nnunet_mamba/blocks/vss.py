"""Visual state space blocks of VMamba's first version, and the layers between them; channels last,
(B, H, W, C).

[1] Liu et al., VMamba, arXiv:2401.10166, code of January 2024. Names of parameters are that code's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.mamba import initial_dt_bias, input_dependent_scans, stack_token_indices
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.ops.precision import HALF, MIXED, SequenceMixer, with_mixer_precision
from nnunet_mamba.scan_order import scan_order


class SS2D(SequenceMixer):
    """Selective scan over a 2D map, (B, H, W, C) -> (B, H, W, C). For each of K directions, with
    E = expand * C:

        u, z = W_in x;   u <- silu(conv2d(u));   y = sum_k scan_k(u);   out = W_out(LayerNorm(y) silu(z))

    With its default precision, "mixed", it computes as the authors' code does under autocast: u, the
    recurrence, its sum and norm in float32, products in half precision. One direction's weights are a slice
    of the first axis of x_proj_weight (K, r + 2n, E), dt_projs_weight (K, E, r), dt_projs_bias (K, E), A_logs
    (K E, n) and Ds (K E).
    """

    mixer_precision = MIXED

    def __init__(self, channels: int, *, order: str, d_state: int = 16, d_conv: int = 3, expand: int = 2):
        super().__init__()
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv: the 2D convolution of a VSS block needs an odd width, got {d_conv}.")
        self.directions = scan_order(order, 2)
        n_directions, inner, dt_rank = len(self.directions), expand * channels, math.ceil(channels / 16)
        bound = inner**-0.5
        self.x_proj_weight = nn.Parameter(
            torch.empty(n_directions, dt_rank + 2 * d_state, inner).uniform_(-bound, bound)
        )
        bound = dt_rank**-0.5
        self.dt_projs_weight = nn.Parameter(torch.empty(n_directions, inner, dt_rank).uniform_(-bound, bound))
        self.dt_projs_bias = nn.Parameter(initial_dt_bias(n_directions, inner))
        states = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_logs = nn.Parameter(states.log().repeat(n_directions * inner, 1))
        self.Ds = nn.Parameter(torch.ones(n_directions * inner))
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=(d_conv - 1) // 2, groups=inner)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        grid, n_directions = tuple(x.shape[1:3]), len(self.directions)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).flatten(1, 2)  # (b, l, E)
        u = u.float() if u.dtype in HALF else u
        y = input_dependent_scans(
            u[None],
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias,
            self.A_logs.unflatten(0, (n_directions, -1)),
            self.Ds.unflatten(0, (n_directions, -1)),
            stack_token_indices(self.directions, grid, u.device),
            [direction.reverse for direction in self.directions],
        )
        norm = self.out_norm
        y = F.layer_norm(y, u.shape[-1:], norm.weight.to(u.dtype), norm.bias.to(u.dtype), norm.eps)
        return self.out_proj((y.view(z.shape) * F.silu(z)).to(x.dtype))


class LocalSS2D(SequenceMixer):
    """Size-matched twin of `SS2D`: a convolution with as many parameters. (B, H, W, C) -> (B, H, W, C)"""

    mixer_precision = MIXED

    def __init__(self, channels: int, **mixer: Any):
        super().__init__()
        self.conv = MatchedConv(channels, 2, replaced=SS2D(channels, **mixer))

    @with_mixer_precision
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flatten(1, 2), tuple(x.shape[1:3])).view(x.shape)


class DropPath(nn.Module):
    """Stochastic depth: in training, zeros for a whole sample with probability `rate`, and the rest scaled to
    keep the mean (Huang et al., arXiv:1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)


class VSSBlock(nn.Module):
    """Block x + DropPath(SS2D(LayerNorm(x))), or with `LocalSS2D` in its place."""

    def __init__(self, channels: int, drop_path: float = 0.0, *, local: bool = False, **mixer: Any):
        super().__init__()
        self.ln_1 = nn.LayerNorm(channels)
        make: Callable[..., nn.Module] = LocalSS2D if local else SS2D
        self.self_attention = make(channels, **mixer)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


def vss_stage(channels: int, drop_rates: Sequence[float], mixer: dict[str, Any] | None) -> nn.Sequential:
    """Return a `VSSBlock` per drop rate; without a mixer they would be identities, so there are none."""
    return nn.Sequential(*(VSSBlock(channels, rate, **mixer) for rate in drop_rates if mixer is not None))


class PatchEmbed(nn.Module):
    """Embedding of `patch` x `patch` pixels as tokens: (B, C, H, W) -> (B, H/patch, W/patch, C')."""

    def __init__(self, in_channels: int, channels: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch, patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Merging of two by two tokens: (B, H, W, C) -> (B, H/2, W/2, 2C). The last of an odd size is dropped."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(quarters, dim=-1)))


class PatchExpand(nn.Module):
    """Expansion of a token to `scale` by `scale`: (B, H, W, C) -> (B, scale H, scale W, C')."""

    def __init__(self, in_channels: int, channels: int, scale: int = 2):
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(in_channels, scale**2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        s = self.scale
        x = self.expand(x).view(batch, height, width, s, s, -1).transpose(2, 3)
        return self.norm(x.reshape(batch, s * height, s * width, -1))
