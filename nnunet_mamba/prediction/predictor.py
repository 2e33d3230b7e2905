"""nnU-Net's predictor with the mirrored copies of several tiles in one forward pass.

nnU-Net sends one tile at a time through the network, and its 2**k mirrored copies one after the other. Here
they go together. Tiles, weights, accumulators and the order of every sum are nnU-Net's, so results differ by
no more than a batch changes within the network's operators. A network must keep the items of a batch apart.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from torch import Tensor
from tqdm import tqdm

from nnunet_mamba.prediction.batches import (
    batch_size_for,
    groups,
    is_out_of_memory,
    mirrorings,
    power_of_two,
)
from nnunet_mamba.prediction.threads import default_threads, torch_threads

Slicer = tuple[int | slice, ...]  # of (C, x, y, z): where a tile lies; in 2D one slice along x


class BatchedPredictor(nnUNetPredictor):
    """nnUNetPredictor, several patches at once.

    Args:
        batch_size: patches per forward pass at most, rounded down to a power of two; None: chosen by device,
            patch and free memory. When memory runs out it is halved, and stays so.
        n_threads: of the forward pass on the CPU; None: see `default_threads`. nnU-Net itself has
            nnUNet_def_n_proc at most.
        others: nnUNetPredictor's.
    """

    def __init__(
        self, *args: Any, batch_size: int | None = None, n_threads: int | None = None, **options: Any
    ) -> None:
        for name, value in {"batch_size": batch_size, "n_threads": n_threads}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}; leave it out to have it chosen.")
        super().__init__(*args, **options)
        self.n_threads = n_threads
        self.batch_size = power_of_two(batch_size) if batch_size else 0  # 0: to be chosen with the first tile

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        on_cpu = self.device.type == "cpu"
        with torch_threads(self.n_threads or default_threads()) if on_cpu else nullcontext():
            return super().predict_sliding_window_return_logits(input_image)

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Sequence[Slicer], do_on_device: bool = True
    ) -> Tensor:
        """nnU-Net's method of this name, which is its loop over tiles. Shape: (C, x, y, z) -> (K, x, y, z)"""
        try:
            return self._predict_tiles(data, slicers, self.device if do_on_device else torch.device("cpu"))
        except RuntimeError as error:
            traceback.clear_frames(error.__traceback__)  # their tensors, before nnU-Net's second attempt
            raise

    def _predict_tiles(self, data: Tensor, slicers: Sequence[Slicer], results: torch.device) -> Tensor:
        data = data.to(results)
        heads = self.label_manager.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=results)
        weights = torch.zeros(data.shape[1:], dtype=torch.half, device=results)
        weight = self._tile_weight(results)
        if not self.batch_size:
            self.batch_size = batch_size_for(self.network, data[slicers[0]][None].to(self.device))
        with tqdm(total=len(slicers), disable=not self.allow_tqdm) as progress:
            for group in groups(slicers, self._tiles_at_once):
                tiles = torch.stack([data[tile] for tile in group]).to(self.device)
                predicted = self._internal_maybe_mirror_and_predict(tiles).to(results)
                predicted *= weight
                for tile, prediction in zip(group, predicted, strict=True):
                    logits[tile] += prediction
                    weights[tile[1:]] += weight
                progress.update(len(group))
        logits /= weights
        if torch.isinf(logits).any():
            raise RuntimeError(
                "A predicted logit is infinite: the network's outputs, times weights of up to 10 and summed "
                "over tiles, exceed float16's 65504. Look for what makes the network's outputs so large."
            )
        return logits

    def _tile_weight(self, device: torch.device) -> Tensor:
        """nnU-Net's Gaussian, or ones. Shape: the patch's"""
        patch = tuple(self.configuration_manager.patch_size)
        if self.use_gaussian:
            return compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=device)
        return torch.ones(patch, dtype=torch.half, device=device)

    def _mirrorings(self) -> list[tuple[int, ...]]:
        return mirrorings(self.allowed_mirroring_axes if self.use_mirroring else None)

    def _tiles_at_once(self) -> int:
        return max(1, self.batch_size // len(self._mirrorings()))

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        """The mean of the predictions of all mirrored copies. Shape: (B, C, *patch) -> (B, K, *patch)"""
        flips = self._mirrorings()
        copies = torch.cat([x.flip(axes) for axes in flips])
        prediction, *others = self._forward(copies).split(len(x))
        for axes, other in zip(flips[1:], others, strict=True):
            prediction += other.flip(axes)
        prediction /= len(flips)
        return prediction

    def _forward(self, x: Tensor) -> Tensor:
        """The network's output in as many passes as it takes."""
        while True:
            try:
                return torch.cat([self.network(part) for part in x.split(self.batch_size)])
            except RuntimeError as error:
                if self.batch_size == 1 or not is_out_of_memory(error):
                    raise
            self.batch_size //= 2  # not in the handler: the error still holds the failed pass's tensors
            empty_cache(self.device)
