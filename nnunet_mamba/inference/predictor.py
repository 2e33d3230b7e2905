"""nnU-Net's predictor with the mirrored copies of several tiles in one forward pass.

nnU-Net sends one tile at a time through the network, and its 2**k mirrored copies one after the other. Here
they go together. Tiles, weights, accumulators and the order of every sum are nnU-Net's, so results differ by
no more than rounding within the network's operators: a batch changes it, and so do the operators that
`channels_last` has for the CPU. With a batch size of 1 neither is used, and results are equal to the last
bit. A network must keep the items of a batch apart.

Tiles that hold one value per channel, as those of air do, are predicted once.

Logits are finite, or NonFiniteError names the case, the weights, the tile and the first layer where they are
not: nnU-Net checks for infinity only, and its argmax turns NaN into background.
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
from torch._dynamo import OptimizedModule
from tqdm import tqdm

from nnunet_mamba.inference.batches import (
    choose_batch_size,
    floor_power_of_two,
    free_bytes,
    is_out_of_memory,
    mirrorings,
    split_groups,
    torch_threads,
)
from nnunet_mamba.inference.channels_last import channels_last
from nnunet_mamba.inference.tiles import Slicer, check_image, constant_values, voxel_range
from nnunet_mamba.io.cpu import choose_n_threads
from nnunet_mamba.networks.finite import (
    USE_OTHERS,
    NonFiniteError,
    check_finite,
    check_output,
    get_tensors,
    is_finite,
    unwrap_model,
)
from nnunet_mamba.nnunet.checkpoints import FINAL


class BatchedPredictor(nnUNetPredictor):
    """nnUNetPredictor that predicts several patches at once.

    Args:
        batch_size: patches per forward pass at most, rounded down to a power of two; None: chosen by device,
            patch and free memory. When memory runs out it is halved for all that follows. 1 also keeps
            torch's own operators on the CPU, so that logits are nnU-Net's to the last bit.
        n_threads: of the forward pass on the CPU; None: see `choose_n_threads`. nnU-Net itself takes
            nnUNet_def_n_proc at most.
        cases: names for error messages if `predict_sliding_window_return_logits` is called directly, in the
            order of the calls; images from files have their files' names.
        weights: name of the weights in the same messages.
        options: nnUNetPredictor's, as `args`.
    """

    reuses_constant_tiles = True

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
        self.batch_size = floor_power_of_two(batch_size) if batch_size else 0  # 0: choose with the first tile
        self._keeps_operators = batch_size == 1
        self._cases: Iterator[str] = iter(cases)  # names of the images to come
        self.case = ""  # the image that is being predicted
        self._weights = weights
        self._has_checked_weights = False
        self._checkpoints: Sequence[str] = ()  # files of `list_of_parameters`
        self._pending: Iterator[tuple[str, str]] = iter(())  # the case with each set of weights to come

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Sequence[int | str] | str | None,
        checkpoint_name: str = FINAL,
    ) -> None:
        if use_folds is None:
            use_folds = self.auto_detect_available_folds(model_training_output_dir, checkpoint_name)
        super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        folds = [use_folds] if isinstance(use_folds, str) else use_folds
        self._checkpoints = [
            str(Path(model_training_output_dir, f"fold_{n}", checkpoint_name)) for n in folds
        ]

    def _manage_input_and_output_lists(self, *args: Any, **options: Any) -> tuple[list, list | None, list]:
        """Override nnU-Net's method, with which every prediction of files starts, to keep their names."""
        inputs, outputs, previous = super()._manage_input_and_output_lists(*args, **options)
        names = [Path(name).name for name in outputs or (files[0] for files in inputs)]
        self._cases = iter(names)
        return inputs, outputs, previous

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Override nnU-Net's method, which returns logits on the CPU."""
        return self.predict_logits(data, self._next_case()).cpu()

    @torch.inference_mode()
    def predict_logits(self, data: Tensor, case: str) -> Tensor:
        """Return the mean logits of all sets of weights, where the results of the sliding window are.

        Args:
            data: preprocessed image, (C, x, y, z).
            case: its name, for messages.

        Raises NonFiniteError, which names the case, the weights and the tile.
        """
        self.case = case
        check_image(case, data)
        n_sets = len(self.list_of_parameters)
        numbered = [f"set {number} of {n_sets} of weights" for number in range(1, n_sets + 1)]
        self._pending = product([case], self._checkpoints or numbered)
        logits: Tensor | None = None
        for parameters in self.list_of_parameters:
            network = self.network._orig_mod if isinstance(self.network, OptimizedModule) else self.network
            network.load_state_dict(parameters)
            if logits is not None and logits.is_cuda and free_bytes(logits.device) < 3 * logits.nbytes:
                logits = logits.cpu()  # for the next ones need room
            own = self.predict_sliding_window_return_logits(data)
            place = own.device if logits is None or logits.is_cuda else logits.device  # with room for both
            logits = own if logits is None else logits.to(place).add_(own.to(place))
        assert logits is not None  # there is a set of weights
        if n_sets > 1:
            logits /= n_sets
            if not is_finite(logits):  # each set's are
                raise NonFiniteError(f"{case}: the sum of {n_sets} sets of logits exceeds float16's 65504.")
        return logits

    def _next_case(self) -> str:
        return next(self._cases, "the image")

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        pending = next(self._pending, None)
        case, weights = pending or (self._next_case(), self._weights)
        if pending is None:  # else the image was checked before the first fold
            check_image(case, input_image)
        self._has_checked_weights = False
        threads: AbstractContextManager[None] = nullcontext()
        if self.device.type == "cpu":
            self.n_threads = self.n_threads or choose_n_threads()
            threads = torch_threads(self.n_threads)
        try:
            with threads:
                return super().predict_sliding_window_return_logits(input_image)
        except NonFiniteError as error:
            self._pending = iter(())
            raise type(error)(f"{case}, by {weights}: {error}") from error

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Sequence[Slicer], do_on_device: bool = True
    ) -> Tensor:
        """Override nnU-Net's loop over tiles. Shape: (C, x, y, z) -> (K, x, y, z)"""
        try:
            return self._predict_tiles(data, slicers, self.device if do_on_device else torch.device("cpu"))
        except RuntimeError as error:
            traceback.clear_frames(error.__traceback__)  # free their tensors before nnU-Net's second attempt
            raise

    def _predict_tiles(self, data: Tensor, slicers: Sequence[Slicer], results: torch.device) -> Tensor:
        data = data.to(results)
        heads = self.label_manager.num_segmentation_heads
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=results)
        weights = torch.zeros(data.shape[1:], dtype=torch.half, device=results)
        weight = self._tile_weight(results)
        if not self.batch_size:
            self.batch_size = self._first_batch_size(data[slicers[0]][None].to(self.device))
        with tqdm(
            desc=self.case or None, total=len(slicers), disable=not self.allow_tqdm, leave=False
        ) as progress:
            for tile, prediction in self._weighted_predictions(data, slicers, weight):
                logits[tile] += prediction
                weights[tile[1:]] += weight
                progress.update()
        logits /= weights
        if not is_finite(logits):
            raise NonFiniteError(
                "A predicted logit is infinite: the network's outputs, times weights of up to 10 and summed "
                "over tiles, exceed float16's 65504. Look for what makes the network's outputs so large."
            )
        return logits

    def _weighted_predictions(
        self, data: Tensor, slicers: Sequence[Slicer], weight: Tensor
    ) -> Iterator[tuple[Slicer, Tensor]]:
        """Yield every tile with its prediction times `weight`; that of a constant tile serves until one with
        other values comes."""
        known: dict[tuple[float, ...] | None, Tensor] = {}
        for group in split_groups(slicers, self._tiles_at_once):
            constants = [
                constant_values(data[tile]) if self.reuses_constant_tiles else None for tile in group
            ]
            new = [tile for tile, values in zip(group, constants, strict=True) if values not in known]
            predicted = (
                one.to(weight.device).mul_(weight)
                for part in split_groups(new, self._tiles_at_once)
                for one in self._predict_group(data, part)
            )
            latest = known
            for tile, values in zip(group, constants, strict=True):
                prediction = known[values] if values in known else next(predicted)
                if values is not None:
                    latest = {values: prediction}
                yield tile, prediction
            known = latest

    def _first_batch_size(self, patch: Tensor) -> int:
        try:
            return choose_batch_size(self.network, patch)
        except NonFiniteError:  # the first tile will raise it with its place
            return 1

    def _predict_group(self, data: Tensor, group: Sequence[Slicer]) -> Tensor:
        """Predict some tiles at once. NonFiniteError names the tile whose prediction is not finite."""
        tiles = torch.stack([data[tile] for tile in group]).to(self.device)
        try:
            return self._internal_maybe_mirror_and_predict(tiles)
        except NonFiniteError as error:
            for tile in group if len(group) > 1 else ():
                self._predict_group(data, [tile])
            places = " or ".join(voxel_range(tile) for tile in group)
            raise type(error)(f"tile {places} of the preprocessed image: {error}") from error

    def _tile_weight(self, device: torch.device) -> Tensor:
        """Return nnU-Net's Gaussian, or ones, of the patch's shape."""
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
        """Return the mean prediction of all mirrored copies. Shape: (B, C, *patch) -> (B, K, *patch)"""
        flips = self._mirrorings()
        prediction = None
        for group in split_groups(flips, lambda: self.batch_size // len(x)):
            copies = torch.cat([x.flip(axes) for axes in group])
            for axes, one in zip(group, self._forward(copies).split(len(x)), strict=True):
                copy = one.flip(axes) if axes else one
                self._observe_copy(copy)
                prediction = copy if prediction is None else prediction.add_(copy)
        assert prediction is not None  # there is always the copy without a flip
        prediction /= len(flips)
        return prediction

    def _observe_copy(self, logits: Tensor) -> None:
        """Take note of a mirrored copy's prediction, flipped back, before it is summed up: nothing here."""

    def _forward(self, x: Tensor) -> Tensor:
        """Return the network's output, in several passes if memory runs out."""
        while True:
            try:
                return torch.cat([self._forward_checked(part) for part in x.split(self.batch_size)])
            except RuntimeError as error:
                if self.batch_size == 1 or not is_out_of_memory(error):
                    raise
            self.batch_size //= 2  # not in the handler: the error still holds the failed pass's tensors
            empty_cache(self.device)

    def _forward_checked(self, x: Tensor) -> Tensor:
        """Return the network's output after a check of it and, once, of the weights. Our networks check
        theirs too, unless they are compiled; others do not."""
        with nullcontext() if self._keeps_operators else channels_last(self.network, x.device):
            output: Tensor = self.network(x)
        network = unwrap_model(self.network)
        check_output(network, x, output)
        if not self._has_checked_weights:  # infinity may leave no trace in the output
            check_finite(get_tensors(network), "the network's weights", USE_OTHERS)
            self._has_checked_weights = True
        return output
