"""Activations of a network: features inside and outside of the residual branches [1], and inputs of scans.

The parts of a block act(x + M(F(x))), where its placement has them:

    skip      x, around the branch
    convs     F(x), after the convolutions
    mixer     output of the mixer: M(F(x)) inside, M(x) of an ssm block
    mixed     the same without the mixer's own residual, if it has one
    out       output of the block, outside of the branch

[1] Xie et al., MM-UNet, arXiv:2503.17540, fig. 2b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.vss import SS2D, VSSBlock

BINS, REACH = 120, 6.0  # histograms are from -REACH to REACH; the outermost bins have all values beyond


@dataclass(frozen=True)
class FeatureSpread:
    """Distribution of the values of one part of a block, over all voxels and channels."""

    block: str
    part: str
    inside: bool  # of the residual branch
    mean: float
    variance: float
    histogram: Tensor  # (BINS,) fractions


def measure_spreads(network: nn.Module, data: Tensor) -> list[FeatureSpread]:
    """Measure the features of all residual blocks, in order of computation. ValueError if there are none."""
    found: list[FeatureSpread] = []
    hooks = []
    for name, block in network.named_modules():
        for part, inside, module in branch_parts(block):
            hooks.append(module.register_forward_hook(_measuring_hook(found, name, part, inside)))
    if not hooks:
        raise ValueError(f"{type(network).__name__} has no residual blocks of this package to inspect.")
    _run_with_hooks(network, data, hooks)
    return found


def _run_with_hooks(network: nn.Module, data: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Run the network without gradients, then remove the hooks."""
    try:
        with torch.no_grad():
            network(data)
    finally:
        for hook in hooks:
            hook.remove()


def branch_parts(block: nn.Module) -> list[tuple[str, bool, nn.Module]]:
    """Return the parts of a block as (part, inside the branch, module whose output it is)."""
    if isinstance(block, VSSBlock):
        return [("mixer", True, block.self_attention), ("out", False, block)]
    if not isinstance(block, MetaBlock):
        return []
    parts: list[tuple[str, bool, nn.Module]] = []
    if block.placement != "ssm":
        parts += [("skip", False, block.skip), ("convs", True, block.convs)]
    if block.placement in ("ssm", "hybrid_inside") and not isinstance(block.mixer, nn.Identity):
        if getattr(block.mixer, "residual", False):
            parts.append(("mixed", True, block.mixer.get_submodule("out_norm")))
        parts.append(("mixer", block.placement != "ssm" or block.adds_x, block.mixer))
    return [*parts, ("out", False, block)]


def _measuring_hook(found: list[FeatureSpread], name: str, part: str, inside: bool) -> Callable[..., None]:
    """Return a forward hook that measures an output."""

    def measure(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(measure_spread(name, part, inside, output))

    return measure


def measure_spread(block: str, part: str, inside: bool, values: Tensor) -> FeatureSpread:
    """Measure values at once, so that no features need to be kept."""
    values = values.detach().float()
    counts = torch.histc(values.clamp(-REACH, REACH), BINS, -REACH, REACH)
    variance, mean = torch.var_mean(values, correction=0)
    return FeatureSpread(block, part, inside, float(mean), float(variance), counts / counts.sum())


@dataclass(frozen=True)
class ScanInput:
    """Input of one Mamba block for one patch.

    grid    of its tokens
    stride  voxels of the patch per token, by axis
    """

    name: str
    stage: int
    block: Mamba | SS2D
    x: Tensor
    grid: tuple[int, ...]
    stride: tuple[int, ...]


def record_scan_inputs(network: nn.Module, data: Tensor) -> list[ScanInput]:
    """Run the network on `data` (1, C, *grid) and record the inputs of its Mamba blocks over voxels.

    Blocks whose tokens are channels (U-Mamba Enc's deepest stages) are left out. ValueError if there are no
    others.
    """
    grid, recorded = tuple(data.shape[2:]), []

    def recorder(name: str) -> Any:
        def record(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            assert isinstance(block, Mamba | SS2D)
            tokens_grid = inputs[1] if isinstance(block, Mamba) else tuple(inputs[0].shape[1:3])
            if len(tokens_grid) == len(grid):
                stride = token_stride(network, grid, tokens_grid)
                stage = stride_stage(network, stride)
                recorded.append(ScanInput(name, stage, block, inputs[0].detach(), tuple(tokens_grid), stride))

        return record

    blocks = [(name, block) for name, block in network.named_modules() if isinstance(block, Mamba | SS2D)]
    _run_with_hooks(
        network, data, [block.register_forward_pre_hook(recorder(name)) for name, block in blocks]
    )
    if not recorded:
        what = "no Mamba block at all" if not blocks else "Mamba blocks over channels only"
        raise ValueError(
            f"{type(network).__name__} has {what} on this patch; there is no scan over voxels to inspect. "
            "Choose a network with one (no ...NoSSM twin, no baseline, no other mixer such as Mamba-2), or "
            "only features and field."
        )
    return recorded


def token_stride(network: nn.Module, grid: Sequence[int], tokens_grid: Sequence[int]) -> tuple[int, ...]:
    """Return the voxels per token by axis, for a patch of `grid` that the network pads."""
    multiple: Any = getattr(network, "multiple", (1,) * len(grid))
    padded = [n + -n % m for n, m in zip(grid, multiple, strict=True)]
    return tuple(-(-n // tokens) for n, tokens in zip(padded, tokens_grid, strict=True))


def stride_stage(network: nn.Module, stride: tuple[int, ...]) -> int:
    """Return the stage of a stride, 0 for the full resolution: as in the plans if the network has their
    strides, else by powers of two."""
    strides: Any = getattr(network, "output_strides", ())
    return strides.index(stride) if stride in strides else max(stride).bit_length() - 1
