"""Base class of all networks: an encoder, a decoder, and inputs of any size.

Shape: (B, input_channels, *grid) -> logits (B, num_classes, *grid), or with deep supervision a list of
logits, the largest first. A grid that the strides do not divide is padded with zeros at its far ends, and the
logits are cropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.networks.geometry import Grid

if TYPE_CHECKING:
    from nnunet_mamba.networks.family import NetworkSpec

ALIASES = (".all_modules.", "decoder.encoder.")  # nnU-Net's checkpoints name the same weights a second time
COUNTERS = ("total_ops", "total_params")  # buffers that a counter of operations (thop) adds to every module


class UNet(nn.Module):
    """Network that runs `decoder(encoder(x))` on a padded input.

    Args:
        encoder: x -> list of features, the largest grid first.
        decoder: features -> list of logits, the largest first; the largest alone while its
            `deep_supervision` is off.
        multiple: the grid of the encoder's input must be a multiple of it.
        output_strides: voxels of the input per voxel of each of the logits.
        n_stages: resolutions of encoder and decoder if they are `CheckpointedStages`; 0 if they are not, and
            activations cannot be recomputed.
    """

    spec: NetworkSpec  # what it was built of, set by `create_network`

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        multiple: Grid,
        output_strides: tuple[Grid, ...],
        n_stages: int,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.multiple, self.output_strides, self.n_stages = multiple, output_strides, n_stages
        self.register_load_state_dict_pre_hook(_drop_surplus)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        grid = tuple(x.shape[2:])
        self.check(grid)
        outputs = self.decoder(self.encoder(pad_to_multiple(x, self.multiple)))
        logits = [
            crop(y, tuple(round(size / step) for size, step in zip(grid, steps, strict=True)))
            for y, steps in zip(outputs, self.output_strides, strict=False)
        ]
        return logits if self.decoder.deep_supervision else logits[0]

    def set_activation_checkpointing(self, stages: int | str) -> None:
        """Recompute the activations of the `stages` largest resolutions ("all": of all) in backward instead
        of keeping them; 0 keeps all. ValueError for other values."""
        n = self.n_stages if stages == "all" else stages
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= self.n_stages:
            raise ValueError(
                f'checkpoint_stages must be "all" or a number from 0 to {self.n_stages}, the resolutions of '
                f"this network; got {stages!r}."
            )
        for module in self.modules():
            if isinstance(module, CheckpointedStages):
                module.n_checkpointed = n

    def check(self, grid: Grid) -> None:
        """Raise ValueError for a grid that the network cannot take."""
        if len(grid) != len(self.multiple):
            raise ValueError(f"This network works in {len(self.multiple)}D; got a grid of {grid}.")


def pad_to_multiple(x: Tensor, multiple: Grid) -> Tensor:
    """Pad each grid axis with zeros at its far end, up to a multiple."""
    missing = [-size % m for size, m in zip(x.shape[2:], multiple, strict=True)]
    return F.pad(x, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else x


def crop(x: Tensor, grid: Grid) -> Tensor:
    """Crop to the first `grid` voxels of each axis."""
    for axis, size in enumerate(grid, start=2):
        x = x.narrow(axis, 0, size) if x.shape[axis] != size else x
    return x


def is_alias(key: str) -> bool:
    """Return True for a key of a state dict that is the second name of a weight."""
    return any(alias in key for alias in ALIASES)


def is_counter(key: str) -> bool:
    """Return True for a key of a state dict that a counter of operations has added."""
    return key.rsplit(".", 1)[-1] in COUNTERS


def _drop_surplus(module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    """Delete second names and counters before a state dict is loaded."""
    own = {name for name, _ in module.named_buffers()}  # of a network that was counted itself
    for key in [key for key in state_dict if is_alias(key) or (is_counter(key) and key not in own)]:
        del state_dict[key]
