"""Mamba on the tokens of a voxel grid: selective state spaces along scan directions.

b batch, l = prod(grid) tokens, C channels, E = expand * C inner channels, n states, r = dt_rank.

[1] Gu and Dao, Mamba, arXiv:2312.00752.
[2] Zhu et al., Vision Mamba, arXiv:2401.09417: several directions share the gate and the projections in and
    out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.ops import multi_directional_conv1d, multi_directional_scan
from nnunet_mamba.ops.precision import clamp_to_float16, matmul_dtype
from nnunet_mamba.scan_order import ScanDirection

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # range of the initial step sizes [1, sec. 3.6]


def initial_dt_bias(*shape: int) -> Tensor:
    """Return biases whose softplus is a step size drawn log-uniformly from [DT_MIN, DT_MAX]."""
    dt = torch.exp(torch.empty(shape).uniform_(math.log(DT_MIN), math.log(DT_MAX))).clamp(min=DT_FLOOR)
    return dt + torch.log(-torch.expm1(-dt))


def stack_token_indices(
    directions: Sequence[ScanDirection], grid: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Return the token indices of directions, int32 (k, l), cached; None if all are in memory order."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():  # perhaps with fake tensors
        return _make_indices(tuple(directions), grid, device)
    return _cached_indices(tuple(directions), grid, device)


def _make_indices(
    directions: tuple[ScanDirection, ...], grid: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Return the token indices of directions, or None if all are in memory order."""
    indices = [direction.token_indices(grid, device) for direction in directions]
    if all(own is None for own in indices):
        return None
    n_tokens = math.prod(grid) // directions[0].n_sequences(grid)
    memory_order = torch.arange(n_tokens, dtype=torch.int32, device=device)
    return torch.stack([memory_order if own is None else own for own in indices])


@lru_cache(maxsize=32)
def _cached_indices(
    directions: tuple[ScanDirection, ...], grid: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Return `_make_indices` of the last few arguments from a cache."""
    with torch.inference_mode(False):  # a training may be the next to use them
        return _make_indices(directions, grid, device)


def input_dependent_scans(
    u: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    indices: Tensor | None,
    reverse: Sequence[bool],
    z: Tensor | None = None,
) -> Tensor:
    """Return the sum of k scans whose delta, B and C are linear in their input u [1, alg. 2].

    Shapes: u (k, b, l, E), or (1, b, l, E) for all; gate z and the result (b, l, E), tokens in memory order;
    x_proj (k, r + 2n, E), dt_proj (k, E, r), dt_bias and D (k, E), A_log (k, E, n); indices (k, l).
    """
    n_directions, d_state, dt_rank = A_log.shape[0], A_log.shape[2], dt_proj.shape[2]
    unused = -dt_rank % (16 // matmul_dtype(u).itemsize)  # columns: those of B and C begin at 16 bytes
    if unused:
        rank, states = x_proj.split([dt_rank, 2 * d_state], dim=1)
        x_proj = torch.cat([rank, x_proj.new_zeros(n_directions, unused, u.shape[-1]), states], 1)
    if len(u) == 1:
        projected = F.linear(u[0], x_proj.flatten(0, 1)).unflatten(-1, (n_directions, -1)).movedim(2, 0)
    else:
        projected = torch.matmul(u.flatten(1, 2), x_proj.transpose(1, 2)).unflatten(1, u.shape[1:3])
    dt, _, B, C = projected.split([dt_rank, unused, d_state, d_state], dim=-1)  # (k, b, l, r or n)
    # Not F.linear: the gradient of so narrow a weight is nine times faster if it lies transposed in memory
    delta = torch.matmul(dt.flatten(1, 2), dt_proj.transpose(1, 2).contiguous()).unflatten(1, dt.shape[1:3])
    y = multi_directional_scan(
        u,
        delta,
        -A_log.exp(),
        B.unsqueeze(2),
        C.unsqueeze(2),
        D,
        z,
        dt_bias,
        delta_softplus=True,
        reverse=reverse,
        indices=indices,
    )
    return clamp_to_float16(y)


class SelectiveSSM(nn.Module):
    """Weights of one direction: causal convolution, input-dependent delta, B, C, and A, D [1, alg. 2]."""

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


DirectionalSSM = tuple[nn.Module, ScanDirection]


def group_directions(
    ssms: Sequence[nn.Module], directions: Sequence[ScanDirection], grid: tuple[int, ...]
) -> list[list[DirectionalSSM]]:
    """Return the directions and their weights, those together that divide the tokens alike."""
    together: dict[int, list[DirectionalSSM]] = {}
    for ssm, direction in zip(ssms, directions, strict=True):
        together.setdefault(direction.n_sequences(grid), []).append((ssm, direction))
    return list(together.values())


def stack_parameters(ssms: Sequence[DirectionalSSM], name: str) -> Tensor:
    """Return a parameter of all directions, stacked along a new first axis; of one direction it is a view."""
    own: list[Tensor] = [ssm.get_parameter(name) for ssm, _ in ssms]
    return torch.stack(own) if len(own) > 1 else own[0][None]


def convolve_directions(
    ssms: Sequence[DirectionalSSM], x: Tensor, grid: tuple[int, ...]
) -> tuple[Tensor, Tensor | None, list[bool]]:
    """Return silu(conv(x)) of each direction (k, b', l', c), the token indices and `reverse` of all.

    Shape: x (b, l, c); b' l' are the equally many sequences that all directions divide the tokens into.
    """
    directions = [direction for _, direction in ssms]
    sequences = x.reshape(len(x) * directions[0].n_sequences(grid), -1, x.shape[2])
    indices = stack_token_indices(directions, grid, x.device)
    reverse = [direction.reverse for direction in directions]
    filters, bias = stack_parameters(ssms, "conv1d.weight").squeeze(2), stack_parameters(ssms, "conv1d.bias")
    u = multi_directional_conv1d(sequences[None], filters, bias, "silu", reverse=reverse, indices=indices)
    return u, indices, reverse


def scan_directions(ssms: Sequence[DirectionalSSM], x: Tensor, z: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return the sum over directions, each with weights of its own, of scan(silu(conv(x))) silu(z).

    Shape: x, gate z (b, l, E) -> (b, l, E), tokens in memory order throughout. All directions divide the
    tokens into equally many sequences.
    """
    u, indices, reverse = convolve_directions(ssms, x, grid)
    names = ("x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D")
    x_proj, dt_proj, dt_bias, A_log, D = (stack_parameters(ssms, name) for name in names)
    z = z.reshape(u.shape[1:])
    return input_dependent_scans(u, x_proj, dt_proj, dt_bias, A_log, D, indices, reverse, z).view(x.shape)


class Mamba(SelectiveSSM):
    """Mamba block over one or more directions; (b, l, C) -> (b, l, C).

        x, z = W_in t;    out = W_out sum_k scan_k(x) silu(z)                           [2, alg. 1]

    With one direction this is mamba_ssm's Mamba with its parameter names. Each further direction has a
    `SelectiveSSM` of its own in `further` and shares the rest; with `shared` all directions have the same.
    """

    def __init__(
        self,
        d_model: int,
        directions: tuple[ScanDirection, ...],
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        shared: bool = False,
    ):
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        super().__init__(d_inner, d_state, d_conv, dt_rank)
        self.directions = directions
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.shared = shared
        n_further = 0 if shared else len(directions) - 1
        self.further = nn.ModuleList(
            SelectiveSSM(d_inner, d_state, d_conv, dt_rank) for _ in range(n_further)
        )

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        ssms = [self] * len(self.directions) if self.shared else [self, *self.further]
        groups = group_directions(ssms, self.directions, grid)
        parts = [scan_directions(group, x, z, grid) for group in groups]
        summed = parts[0] if len(parts) == 1 else clamp_to_float16(sum(parts[1:], parts[0]))
        return clamp_to_float16(self.out_proj(summed))
