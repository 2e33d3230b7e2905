"""Vision-LSTM's layer on the tokens of a voxel grid: mLSTM, a matrix memory with exponential gates, along
scan directions.

b batch, l = prod(grid) tokens, C channels, E = expand * C inner channels, h heads of p = E / h channels.

[1] Beck et al., xLSTM, arXiv:2405.04517.
[2] Alkin et al., Vision-LSTM, arXiv:2406.04303.
[3] Chen et al., xLSTM-UNet, arXiv:2407.01530: its rule for widths that 4 does not divide.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.mamba import convolve_directions
from nnunet_mamba.ops import linear_attention
from nnunet_mamba.ops.precision import (
    accumulation_dtype,
    clamp_for_matmul,
    clamp_to_float16,
    finest_dtype,
)
from nnunet_mamba.ops.reference import scan_indices
from nnunet_mamba.scan_order import ScanDirection

EPS = 1e-6  # beside the denominator of the memory's output [2, code]
TILE = 32  # edge of the matrices that block-diagonal ones are multiplied as


class OffsetLayerNorm(nn.Module):
    """LayerNorm without bias of each of `parts` equal parts of the features; its scale is 1 + weight."""

    def __init__(self, features: int, parts: int = 1):
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.parts, -1))
        return F.layer_norm(x, x.shape[-1:]).flatten(-2) * (1 + self.weight)


class BlockDiagonal(nn.Module):
    """Linear map of each block of features to itself, (b, l, E) -> (b, l, tiles, E / tiles).

    The weight is (blocks, out, in). Matrices as small as a block are slow to multiply by, so several blocks
    make a tile. That the tiles stay apart saves a copy.
    """

    def __init__(self, features: int, block: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features // block, block, block))

    def forward(self, x: Tensor) -> Tensor:
        n_blocks, block, _ = self.weight.shape
        per_tile = math.gcd(n_blocks, TILE // block)
        blocks = self.weight.view(-1, per_tile, block, block)
        diagonal = torch.eye(per_tile, dtype=x.dtype, device=x.device)
        tiles = torch.einsum("tnij,nm->tnimj", blocks, diagonal).flatten(3, 4).flatten(1, 2)  # (t, out, in)
        x = x.unflatten(-1, (len(tiles), -1))
        y = torch.bmm(x.flatten(0, 1).transpose(0, 1), tiles.transpose(1, 2))
        return y.transpose(0, 1).unflatten(0, x.shape[:2])


def matrix_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    indices: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """Return the outputs h of the memory C and its normaliser n, in one direction [1, eq. 19 to 27].

        C_t = f'_t C_(t-1) + i'_t v_t k_t^T,    n_t = f'_t n_(t-1) + i'_t k_t,    C_0 = n_0 = 0
        h_t = C_t q_t / (max(|n_t q_t|, exp(-m_t)) + EPS)
        f'_t = sigmoid(f_t) exp(m_(t-1) - m_t),    i'_t = exp(i_t - m_t) / sqrt(p)

    with m of `stabilisers`. Shape: queries, keys and values (b, l, h, p); gates i and f before exponential
    and sigmoid, (b, l, h); indices (l,) -> (b, l, h, p), in float32 or float64. Cost: O(l).
    """
    work, fine = accumulation_dtype(v), finest_dtype(v.device)
    i, log_forget = i.to(fine), F.logsigmoid(f.to(fine))
    m, before = stabilisers(i, log_forget, scan_indices(v.shape[1], indices, reverse, v.device))
    fixed = m.detach()  # whatever m is, C_t q_t / (n_t q_t) is the same
    change = torch.minimum(before.detach() - fixed, -log_forget.detach())  # rounding makes no decay a growth
    log_decay = log_forget + change
    scale = ((i - fixed).exp() / math.sqrt(v.shape[-1])).to(work).unsqueeze(-1)
    values = torch.cat([v * scale, scale], -1)
    y = linear_attention(values, log_decay.to(work), k, q, reverse=reverse, indices=indices)
    numerator, denominator = y.split([v.shape[-1], 1], -1)
    floor = (-fixed).exp().to(work).unsqueeze(-1)  # infinite in float32 for m < -88: h is 0 there
    eps = EPS * (m - fixed).exp().to(work).unsqueeze(-1)  # EPS, with the gradient of m
    return numerator * (torch.maximum(denominator.abs(), floor) + eps).reciprocal()


def stabilisers(i: Tensor, log_forget: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return m_t = max(log_forget_t + m_(t-1), i_t) with m_0 = -inf, and m_(t-1) [1, eq. 15].

    Shape: (b, l, h), tokens in memory order; order (l,) is the token of each step. Of the first step, m_0 is
    given as m_1: nothing decays there.
    """
    # Tokens last: elsewhere a GPU would go through them one by one
    i, log_forget = (t.transpose(1, 2).index_select(2, order) for t in (i, log_forget))
    total = log_forget.cumsum(2)
    rest = i - total
    m = total + (running_maximum(rest) if torch.onnx.is_in_onnx_export() else rest.cummax(2).values)
    before = torch.cat([m[..., :1], m[..., :-1]], 2)
    step = order.argsort()
    return m.index_select(2, step).transpose(1, 2), before.index_select(2, step).transpose(1, 2)


def running_maximum(x: Tensor) -> Tensor:
    """Return the largest value up to each place of the last axis, as `torch.cummax`, which ONNX lacks."""
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], torch.maximum(x[..., reach:], x[..., :-reach])], -1)
        reach *= 2
    return x


class MatrixLSTM(nn.Module):
    """Weights of one direction: convolution, queries, keys, values, gates, norm per head and skip
    [2]; `scan` takes x (b, l, E) to y (b, l, E).

        c = silu(conv(x));   q, k, v = W_q c, W_k c, W_v x;   i, f = W_i [q, k, v], W_f [q, k, v]
        y = norm(h) + learnable_skip c

    The authors' code calls these parameters the same, but for `conv1d.conv.*` where here is `conv1d.*`, and
    `mlstm_cell.` before igate, fgate and outnorm.
    """

    def __init__(self, features: int, inner: int, block: int, heads: int, d_conv: int):
        super().__init__()
        self.heads = heads
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.q_proj, self.k_proj, self.v_proj = (BlockDiagonal(inner, block) for _ in range(3))
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.igate, self.fgate = nn.Linear(3 * inner, heads), nn.Linear(3 * inner, heads)
        self.outnorm = OffsetLayerNorm(inner, heads)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(projection.weight, std=math.sqrt(2 / (5 * features)))
        for gate in (self.igate, self.fgate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        with torch.no_grad():
            self.fgate.bias.copy_(torch.linspace(3, 6, heads))  # memories of 21 to 400 tokens

    def scan(self, x: Tensor, direction: ScanDirection, grid: tuple[int, ...]) -> Tensor:
        (c,), indices, (reverse,) = convolve_directions([(self, direction)], x, grid)
        qkv = torch.cat([self.q_proj(c), self.k_proj(c), self.v_proj(x.reshape(c.shape))], 2).flatten(2)
        i, f = self.igate(qkv), self.fgate(qkv)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(2)
        h = matrix_memory(q, k, v, i, f, None if indices is None else indices[0], reverse)
        return (self.outnorm(h.flatten(2)) + self.learnable_skip * c).view(x.shape)


class MLSTM(MatrixLSTM):
    """Vision-LSTM's layer over one or more directions; (b, l, C) -> (b, l, C).

        x, z = W_up t;    out = W_down (sum_k y_k(x) silu(z))

    With one direction this is the authors' layer [2, code]; several are ours, as Vision Mamba has them: each
    further direction has a `MatrixLSTM` of its own in `further` and shares the gate z and the projections.
    Blocks of the projections are 4 wide, and there are 4 heads; both are 2 where 4 does not divide C [3].

    Args:
        features: C.
        directions: scan directions over the tokens.
        d_conv: width of the convolution.
        expand: E / C.
        heads: heads of the memory; None: the rule above.
    """

    def __init__(
        self,
        features: int,
        directions: tuple[ScanDirection, ...],
        *,
        d_conv: int = 4,
        expand: int = 2,
        heads: int | None = None,
    ):
        inner, block = expand * features, 2 if features % 4 else 4
        heads = block if heads is None else heads
        if inner % block or inner % heads:
            raise ValueError(
                f"mLSTM has {inner} = {expand} x {features} inner channels, which must be a multiple of "
                f"its blocks' width {block} and of its {heads} heads. Change expand or heads."
            )
        super().__init__(features, inner, block, heads, d_conv)
        self.directions = directions
        self.proj_up = nn.Linear(features, 2 * inner, bias=False)
        self.proj_down = nn.Linear(inner, features, bias=False)
        self.further = nn.ModuleList(
            MatrixLSTM(features, inner, block, heads, d_conv) for _ in directions[1:]
        )
        nn.init.normal_(self.proj_up.weight, std=math.sqrt(2 / (5 * features)))
        nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(features))

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        x, z = self.proj_up(tokens).chunk(2, dim=-1)
        lstms = zip([self, *self.further], self.directions, strict=True)
        outputs = [cast(MatrixLSTM, lstm).scan(x, direction, grid) for lstm, direction in lstms]
        gated = clamp_for_matmul(sum(outputs[1:], outputs[0]) * F.silu(z))
        return clamp_to_float16(self.proj_down(gated))
