"""nnU-Net's predictor with the mirrored copies of several tiles in one forward pass.

nnU-Net sends one tile at a time through the network, and its 2**k mirrored copies one after the other. Here
they go together. Tiles, weights, accumulators and the order of every sum are nnU-Net's, so results differ by
no more than a batch changes within the network's operators; with a batch size of 1 they are equal to the last
bit. A network must keep the items of a batch apart.

Logits are finite, or NonFiniteError names the case, the weights, the tile and the first layer where they are
not: nnU-Net asks for infinity only, and of NaN its argmax makes background.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from torch import Tensor
from tqdm import tqdm

from nnunet_mamba.inference.batches import (
    batch_size_for,
    groups,
    is_out_of_memory,
    mirrorings,
    power_of_two,
)
from nnunet_mamba.inference.threads import torch_threads
from nnunet_mamba.io.cpu import default_threads
from nnunet_mamba.networks.finite import (
    USE_OTHERS,
    NonFiniteError,
    check_finite,
    check_output,
    is_finite,
    tensors_of,
    unwrap_model,
)

Slicer = tuple[int | slice, ...]  # of (C, x, y, z): where a tile lies; in 2D one slice along x


class BatchedPredictor(nnUNetPredictor):
    """nnUNetPredictor, several patches at once.

    Args:
        batch_size: patches per forward pass at most, rounded down to a power of two; None: chosen by device,
            patch and free memory. When memory runs out it is halved, and stays so.
        n_threads: of the forward pass on the CPU; None: see `cpu.default_threads`. nnU-Net itself has
            nnUNet_def_n_proc at most.
        cases: names for error messages, where one image after the other is given to
            `predict_sliding_window_return_logits`; files bring their own.
        weights: a name for them in the same messages.
        others: nnUNetPredictor's.
    """

    def __init__(
        self,
        *args: Any,
        batch_size: int | None = None,
        n_threads: int | None = None,
        cases: Iterable[str] = (),
        weights: str = "the network",
        **options: Any,
    ) -> None:
        for name, value in {"batch_size": batch_size, "n_threads": n_threads}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}; leave it out to have it chosen.")
        super().__init__(*args, **options)
        self.n_threads = n_threads
        self.batch_size = power_of_two(batch_size) if batch_size else 0  # 0: to be chosen with the first tile
        self._cases: Iterator[str] = iter(cases)  # names of images that are yet to come
        self.case = ""  # that is being predicted
        self._weights = weights
        self._has_checked_weights = False
        self._checkpoints: Sequence[str] = ()  # files of `list_of_parameters`
        self._turns: Iterator[tuple[str, str]] = iter(())  # the present case, with weights yet to come

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[int | str] | str | None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        if use_folds is None:
            use_folds = self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        folds = [use_folds] if isinstance(use_folds, str) else use_folds
        self._checkpoints = [
            str(Path(model_training_output_dir, f"fold_{n}", checkpoint_name)) for n in folds
        ]

    def _manage_input_and_output_lists(self, *args: Any, **options: Any) -> tuple[list, list | None, list]:
        """nnU-Net's method of this name, which every prediction of files begins with."""
        inputs, outputs, previous = super()._manage_input_and_output_lists(*args, **options)
        names = [Path(name).name for name in outputs or (files[0] for files in inputs)]
        self._cases = iter(names)
        return inputs, outputs, previous

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        self.case = case = self._next_case()
        _check_image(case, data)
        n_sets = len(self.list_of_parameters)
        numbered = [f"set {number} of {n_sets} of weights" for number in range(1, n_sets + 1)]
        self._turns = product([case], self._checkpoints or numbered)
        logits = super().predict_logits_from_preprocessed_data(data)
        if not is_finite(logits):
            raise NonFiniteError(f"{case}: the sum of {n_sets} sets of logits exceeds float16's 65504.")
        return logits

    def _next_case(self) -> str:
        return next(self._cases, "the image")

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        turn = next(self._turns, None)
        case, weights = turn or (self._next_case(), self._weights)
        if turn is None:  # else the image was looked at before the first fold
            _check_image(case, input_image)
        self._has_checked_weights = False
        threads: AbstractContextManager[None] = nullcontext()
        if self.device.type == "cpu":
            self.n_threads = self.n_threads or default_threads()
            threads = torch_threads(self.n_threads)
        try:
            with threads:
                return super().predict_sliding_window_return_logits(input_image)
        except NonFiniteError as error:
            self._turns = iter(())
            raise type(error)(f"{case}, by {weights}: {error}") from error

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
            self.batch_size = self._choose_batch_size(data[slicers[0]][None].to(self.device))
        with tqdm(total=len(slicers), disable=not self.allow_tqdm) as progress:
            for group in groups(slicers, self._tiles_at_once):
                predicted = self._predict_group(data, group).to(results)
                predicted *= weight
                for tile, prediction in zip(group, predicted, strict=True):
                    logits[tile] += prediction
                    weights[tile[1:]] += weight
                progress.update(len(group))
        logits /= weights
        if not is_finite(logits):
            raise NonFiniteError(
                "A predicted logit is infinite: the network's outputs, times weights of up to 10 and summed "
                "over tiles, exceed float16's 65504. Look for what makes the network's outputs so large."
            )
        return logits

    def _choose_batch_size(self, patch: Tensor) -> int:
        try:
            return batch_size_for(self.network, patch)
        except NonFiniteError:  # the first tile will say it better
            return 1

    def _predict_group(self, data: Tensor, group: Sequence[Slicer]) -> Tensor:
        """Predictions of some tiles at once. NonFiniteError with the place of the one to blame."""
        tiles = torch.stack([data[tile] for tile in group]).to(self.device)
        try:
            return self._internal_maybe_mirror_and_predict(tiles)
        except NonFiniteError as error:
            for tile in group if len(group) > 1 else ():
                self._predict_group(data, [tile])
            places = " or ".join(_place(tile) for tile in group)
            raise type(error)(f"tile {places} of the preprocessed image: {error}") from error

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
        prediction = None
        for group in groups(flips, lambda: self.batch_size // len(x)):
            copies = torch.cat([x.flip(axes) for axes in group])
            for axes, one in zip(group, self._forward(copies).split(len(x)), strict=True):
                prediction = one if prediction is None else prediction.add_(one.flip(axes))
        assert prediction is not None  # the first copy is always there, as it is
        prediction /= len(flips)
        return prediction

    def _forward(self, x: Tensor) -> Tensor:
        """The network's output, which is finite, in as many passes as it takes."""
        while True:
            try:
                return torch.cat([self._checked(part) for part in x.split(self.batch_size)])
            except RuntimeError as error:
                if self.batch_size == 1 or not is_out_of_memory(error):
                    raise
            self.batch_size //= 2  # not in the handler: the error still holds the failed pass's tensors
            empty_cache(self.device)

    def _checked(self, x: Tensor) -> Tensor:
        """The network's output and, once, its weights: not only our networks', which look at theirs unless
        they are compiled."""
        output: Tensor = self.network(x)
        network = unwrap_model(self.network)
        check_output(network, x, output)
        if not self._has_checked_weights:  # infinity may leave no trace in the output
            check_finite(tensors_of(network), "the network's weights", USE_OTHERS)
            self._has_checked_weights = True
        return output


def _check_image(case: str, image: Tensor) -> None:
    if not is_finite(image):
        n = int((~torch.isfinite(image)).sum())
        raise NonFiniteError(
            f"{case}: {n} of the {image.numel()} values of the preprocessed image are NaN or infinite, so "
            "the fault is the image's, not the network's. Look for such voxels in its files; normalisation "
            "spreads a single one over all."
        )


def _place(tile: Slicer) -> str:
    """Its voxels, as one indexes them: '[0:8, 4:12, 0:8]'."""
    along = [f"{at.start}:{at.stop}" if isinstance(at, slice) else str(at) for at in tile[1:]]
    return f"[{', '.join(along)}]"
