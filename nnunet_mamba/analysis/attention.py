"""Attention-like maps of a voxel: rows of the scans' matrices [1, fig. 4], effective receptive field [2].

Unrolled, the scan of one channel is y = M u with

    M[t, s] = C_t (prod_{s<r<=t} Abar_r) Bbar_s,   Abar_r = exp(delta_r A),   Bbar_s = delta_s B_s,

lower triangular in the order of the scan. Row t has the weight of each token s in the output of the scan at
token t, before the gate and without the direct term D u_t. l tokens, d channels, n states; M is never built:
a row takes O(l d) memory. All is in float64.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
[2] Luo et al., Understanding the effective receptive field, arXiv:1701.04128.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.analysis.activations import ScanInput
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
        """Compute M[step, :] of every channel (l, d), backwards from `step` by multiplying the decays."""
        delta, B, C = self.delta[sequence], self.B[sequence], self.C[sequence, step]
        row = torch.zeros_like(delta)
        elapsed = torch.zeros_like(delta[0])  # sum of delta from the end of the chunk to `step`
        for end in range(step + 1, 0, -CHUNK):
            chunk = slice(max(end - CHUNK, 0), end)
            sums = delta[chunk].flip(0).cumsum(0).flip(0) + elapsed
            since = torch.cat((sums[1:], elapsed[None]))  # (c, d), sum over s < r <= step
            decay = torch.exp(since[..., None] * self.A)  # (c, d, n)
            row[chunk] = delta[chunk] * (decay @ (C * B[chunk])[..., None]).squeeze(-1)
            elapsed = sums[0]
            if not decay[0].any():  # all steps before have decayed to zero
                break
        return row

    def attention_map(self, token: int) -> Tensor:
        """Return |M[t, s]|, averaged over channels, as a map over s (*grid). The token t is counted in memory
        order of the grid."""
        length = len(self.tokens)
        sequence, within = divmod(token, length)
        step = int((self.tokens == within).nonzero())
        folded = self.delta.new_zeros(len(self.delta), length)
        folded[sequence, self.tokens] = self.row(sequence, step).abs().mean(-1)
        return folded.view(self.grid)


def iterate_scans(block: Mamba | SS2D, x: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """Yield the scans of `block` for its input `x` of one image."""
    x = x.detach().double()
    return _mamba_scans(block, x, grid) if isinstance(block, Mamba) else _ss2d_scans(block, x, grid)


def direction_name(direction: ScanDirection, ndim: int) -> str:
    """Return the name of a direction, as `scan_order` spells it."""
    if direction.pattern != "raster":
        word = direction.pattern + (str(direction.n) if direction.pattern == "interleave" else "")
    else:
        word = "".join(AXES[ndim][axis] for axis in direction.axes)
    return f"-{word}" if direction.reverse else word


def _mamba_scans(block: Mamba, tokens: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """Yield the scans of a Mamba block for its tokens (1, l, C)."""
    x = F.linear(tokens, block.in_proj.weight.detach().double().chunk(2)[0])
    for ssm, direction in zip([block, *block.further], block.directions, strict=True):
        assert isinstance(ssm, SelectiveSSM)
        p = {name: parameter.detach().double() for name, parameter in ssm.named_parameters()}
        sequences = x.reshape(direction.n_sequences(grid), -1, x.shape[-1])
        indices = direction.token_indices(grid, x.device)
        filters = p["conv1d.weight"].squeeze(1)
        u = causal_conv1d_reference(sequences, filters, p["conv1d.bias"], indices, True, direction.reverse)
        yield _build_scan(
            direction, grid, u, p["x_proj.weight"], p["dt_proj.weight"], p["dt_proj.bias"], p["A_log"]
        )


def _ss2d_scans(block: SS2D, x: Tensor, grid: tuple[int, ...]) -> Iterator[Scan]:
    """Yield the scans of an SS2D block for its input (1, H, W, C)."""
    p = {name: parameter.detach().double() for name, parameter in block.named_parameters()}
    u = F.linear(x, p["in_proj.weight"].chunk(2)[0]).permute(0, 3, 1, 2)
    padding = (p["conv2d.weight"].shape[-1] - 1) // 2
    u = F.conv2d(u, p["conv2d.weight"], p["conv2d.bias"], padding=padding, groups=u.shape[1])
    u = F.silu(u).permute(0, 2, 3, 1).flatten(1, 2)
    A_logs = p["A_logs"].unflatten(0, (len(block.directions), -1))
    for k, direction in enumerate(block.directions):
        yield _build_scan(
            direction,
            grid,
            u,
            p["x_proj_weight"][k],
            p["dt_projs_weight"][k],
            p["dt_projs_bias"][k],
            A_logs[k],
        )


def _build_scan(
    direction: ScanDirection,
    grid: tuple[int, ...],
    u: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
) -> Scan:
    """Return a scan with delta, B and C of u [Mamba, alg. 2], in the order of the scan."""
    tokens = scan_indices(
        math.prod(grid) // len(u), direction.token_indices(grid, u.device), direction.reverse, u.device
    )
    u, d_state = u[:, tokens], A_log.shape[1]
    dt, B, C = F.linear(u, x_proj).split([dt_proj.shape[1], d_state, d_state], dim=-1)
    delta = F.softplus(F.linear(dt, dt_proj, dt_bias))
    return Scan(direction_name(direction, len(grid)), grid, u, delta, -A_log.exp(), B, C, tokens)


@dataclass(frozen=True)
class Attention:
    """Maps of one voxel in one block, one per direction over the block's grid, and the voxel's place on
    it."""

    name: str
    stage: int
    place: tuple[int, ...]
    stride: tuple[int, ...]
    maps: dict[str, Tensor]  # direction -> (*grid)

    @property
    def total(self) -> Tensor:
        """Return the sum over directions, whose outputs a block adds."""
        return torch.stack(list(self.maps.values())).sum(0)


def compute_attention(recorded: ScanInput, place: Sequence[int]) -> Attention:
    """Compute the maps of the voxel at `place` of the patch."""
    own = tuple(at // step for at, step in zip(place, recorded.stride, strict=True))
    token = 0
    for at, size in zip(own, recorded.grid, strict=True):
        token = token * size + at
    maps: dict[str, Tensor] = {}
    for scan in iterate_scans(recorded.block, recorded.x, recorded.grid):
        maps[scan.direction] = maps.get(scan.direction, 0) + scan.attention_map(token)
    return Attention(recorded.name, recorded.stage, own, recorded.stride, maps)


def upsample_to_patch(values: Tensor, stride: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Repeat a map of a coarser grid onto the patch, and crop the padding of the network."""
    for axis, (step, size) in enumerate(zip(stride, grid, strict=True)):
        values = values.repeat_interleave(step, axis).narrow(axis, 0, size)
    return values


@dataclass(frozen=True)
class ReceptiveField:
    """Effective receptive field of one output voxel [2].

    label     class of the voxel in the network's output
    gradient  |d logit of the class / d input|, summed over input channels (*grid)
    """

    place: tuple[int, ...]
    label: int
    gradient: Tensor

    def distances(self) -> Tensor:
        """Return the distance of every voxel from `place`, in voxels."""
        axes = [
            torch.arange(n, dtype=torch.float64) - at
            for n, at in zip(self.gradient.shape, self.place, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()

    def mass_within(self) -> tuple[Tensor, Tensor]:
        """Return distances, ascending, and the fraction of the gradient within each."""
        distance, order = self.distances().flatten().sort()
        mass = self.gradient.flatten()[order].cumsum(0)
        return distance, mass / mass[-1]

    def radius(self, fraction: float) -> float:
        """Return the distance within which this fraction of the gradient lies."""
        distance, mass = self.mass_within()
        return float(distance[int((mass < fraction - 1e-12).sum())])


def compute_receptive_field(network: nn.Module, data: Tensor, place: Sequence[int]) -> ReceptiveField:
    """Compute the receptive field of the voxel at `place` of the patch `data` (1, C, *grid)."""
    x = data.detach().clone().requires_grad_()
    voxel = (0, slice(None), *place)
    logits = network(x)[voxel]
    label = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[label], x)
    magnitude = gradient[0].abs().sum(0).double()
    if not magnitude.any():
        raise ValueError(
            f"The output at {tuple(place)} does not depend on the input at all; the weights are broken."
        )
    return ReceptiveField(tuple(place), label, magnitude)
