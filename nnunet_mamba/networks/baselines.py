"""Networks of MONAI with which papers of this family compare, wrapped as a `UNet`.

Their topology is fixed; of the plans they take the patch alone. A new one is a row of `BASELINES`. MONAI is
imported when a network is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.networks.geometry import Grid
from nnunet_mamba.networks.unet import UNet


@dataclass(frozen=True)
class Baseline:
    """Network of MONAI.

    class_name       in `monai.networks.nets`
    multiple         every axis of its input must be a multiple of it
    options          arguments besides channels, classes and axes
    output_strides   voxels of the input per voxel of each of its outputs
    fixed_grid       its weights fit one size of input only
    unused           modules that its forward pass never calls; removed, since DDP waits for the gradient of
                     every parameter, and since not every release of MONAI has them
    since            the first release of MONAI that has it
    """

    class_name: str
    multiple: int
    options: Mapping[str, Any] = field(default_factory=dict)
    output_strides: tuple[int, ...] = (1,)
    fixed_grid: bool = False
    unused: tuple[str, ...] = ()
    since: str = "1.4"


def _seg_res_net(filters: int, down: tuple[int, ...], up: tuple[int, ...]) -> Baseline:
    options = {"init_filters": filters, "blocks_down": down, "blocks_up": up}
    return Baseline("SegResNet", multiple=8, options=options)


def _mednext(size: str) -> Baseline:
    options = {"kernel_size": 3, "deep_supervision": True}
    return Baseline(f"MedNeXt{size}", 16, options, output_strides=(1, 2, 4, 8, 16), since="1.5")


BASELINES: dict[str, Baseline] = {
    # Myronenko, arXiv:1810.11654, in the sizes of U-Mamba's repository (arXiv:2401.04722)
    "seg_res_net": _seg_res_net(32, (1, 2, 2, 4), (1, 1, 1)),
    "seg_res_net_2x_feat": _seg_res_net(64, (1, 2, 2, 4), (1, 1, 1)),
    "seg_res_net_2x_feat_2x_depth": _seg_res_net(64, (2, 4, 4, 8), (2, 2, 2)),
    "seg_res_net_2x_feat_4x_depth": _seg_res_net(64, (4, 8, 8, 16), (4, 4, 4)),
    # Hatamizadeh et al., arXiv:2103.10504
    "unetr": Baseline("UNETR", multiple=16, fixed_grid=True, unused=("norm_cross_attn", "cross_attn")),
    # Hatamizadeh et al., arXiv:2201.01266; He et al., SwinUNETR-V2, MICCAI 2023
    "swin_unetr": Baseline("SwinUNETR", multiple=32, options={"feature_size": 48}),
    "swin_unetr_v2": Baseline("SwinUNETR", multiple=32, options={"feature_size": 48, "use_v2": True}),
    # Roy et al., arXiv:2303.09975
    **{f"mednext_{size.lower()}": _mednext(size) for size in "SBML"},
}


class MonaiNetwork(nn.Module):
    """Decoder that is a network of MONAI: x -> list of logits, the largest first."""

    def __init__(self, network: nn.Module, deep_supervision: bool):
        super().__init__()
        self.network, self.deep_supervision = network, deep_supervision

    def train(self, mode: bool = True) -> MonaiNetwork:
        super().train(mode)
        if hasattr(self.network, "do_ds"):
            self.network.training = True  # MedNeXt returns all its logits only then; it has no dropout
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = self.network(x)
        logits = list(logits) if isinstance(logits, (list, tuple)) else [logits]
        return logits if self.deep_supervision else logits[:1]


class BaselineUNet(UNet):
    """Baseline for inputs of any size, or of the size `grid` if that is given."""

    def __init__(
        self, row: Baseline, network: nn.Module, ndim: int, deep_supervision: bool, grid: Grid | None
    ):
        super().__init__(
            nn.Identity(),
            MonaiNetwork(network, deep_supervision),
            multiple=(row.multiple,) * ndim,
            output_strides=tuple((stride,) * ndim for stride in row.output_strides),
            n_stages=0,
        )
        self.grid = grid
        self.train()

    def check(self, grid: Grid) -> None:
        super().check(grid)
        if self.grid is not None and grid != self.grid:
            raise ValueError(
                f"This network was built for patches of {self.grid}, the size of its position embedding; "
                f"got {grid}. Build it with the patch_size that you need."
            )


def create_baseline(
    name: str,
    *,
    input_channels: int,
    num_classes: int,
    patch_size: Sequence[int],
    deep_supervision: bool = False,
) -> UNet:
    """Build a network of MONAI by its name in `BASELINES`, for patches of 2 or 3 axes.

    Patches that it does not take are padded with zeros and the logits cropped. Raises ValueError for unknown
    names and for patches that are too small, ImportError if the installed MONAI has no such network.
    """
    if name not in BASELINES:
        raise ValueError(format_unknown_name("baseline", name, BASELINES))
    row, grid = BASELINES[name], tuple(int(size) for size in patch_size)
    _check_patch(row, grid)
    build = _monai_class(row)
    padded = tuple(-(-size // row.multiple) * row.multiple for size in grid)
    options = dict(row.options)
    if "img_size" in inspect.signature(build).parameters:
        options["img_size"] = padded
    network = build(spatial_dims=len(grid), in_channels=input_channels, out_channels=num_classes, **options)
    _remove_modules(network, row.unused)
    return BaselineUNet(row, network, len(grid), deep_supervision, grid if row.fixed_grid else None)


def _remove_modules(network: nn.Module, names: tuple[str, ...]) -> None:
    """Replace modules of these names by the identity."""
    for module in list(network.modules()):
        for name in names:
            if hasattr(module, name):
                setattr(module, name, nn.Identity())


def _check_patch(row: Baseline, grid: Grid) -> None:
    """Raise ValueError for a patch that is reduced to one voxel."""
    if all(size <= row.multiple for size in grid):
        raise ValueError(
            f"Patch {grid} is too small for {row.class_name}: reduced by {row.multiple} it is one voxel, too "
            f"few for its norms. Use a patch longer than {row.multiple} along some axis."
        )


def _monai_class(row: Baseline) -> Callable[..., nn.Module]:
    """Import a network's class. ImportError if the installed MONAI has none."""
    import monai
    from monai.networks import nets

    if not hasattr(nets, row.class_name):
        raise ImportError(
            f"MONAI {monai.__version__} has no {row.class_name}, which came with {row.since}; "
            f"run: pip install 'monai>={row.since}'"
        )
    return getattr(nets, row.class_name)
