"""Uncertainty of an ensemble: in what its members differ, from one pass of the sliding window.

Members are the sets of weights (folds) times the mirrored copies. With p_m a member's probabilities of the
labels of a voxel, p their mean over all members, and H Shannon's entropy in nats (log 2 = 0.69: a toss-up of
two labels),

    entropy        H(p)
    disagreement   H(p) - mean H(p_m), the mutual information between label and member

Disagreement is 0 where members say the same, however unsure each is, and at most H(p), which is at most log
of the number of labels (BALD: Houlsby et al., arXiv:1112.5745; Smith and Gal, arXiv:1803.08533). Regions are
decisions of their own: H is then the sum of their binary entropies. Where tiles overlap, each predicts the
voxel once more, as a member with its Gaussian weight: both means are over folds, copies and tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.inference.tiles import Slicer

DISAGREEMENT, ENTROPY = "disagreement", "entropy"
SLAB = 2**24  # probabilities that are measured at once


def to_probabilities(logits: Tensor, are_regions: bool) -> Tensor:
    """Return a member's probabilities in float32. Shape: (B, K, *grid) -> the same"""
    return logits.float().sigmoid() if are_regions else logits.float().softmax(1)


def measure_entropy(probabilities: Tensor, are_regions: bool, dim: int = 0) -> Tensor:
    """Return the entropy in nats along the axis of the labels, which is left out; of regions their sum."""
    entropy = torch.special.entr(probabilities)
    if are_regions:
        entropy += torch.special.entr((1 - probabilities).clamp_(min=0))  # a mean may exceed 1 by rounding
    return entropy.sum(dim)


class MemberSums:
    """Weighted sums over members of an image's probabilities, of their entropies, and of the weights: K + 2
    float32 per voxel of the network's grid, however many members there are."""

    def __init__(self, n_labels: int, grid: Sequence[int], are_regions: bool, device: torch.device) -> None:
        self.sums = torch.zeros((n_labels + 2, *grid), device=device)
        self.are_regions = are_regions

    def add(self, tile: Slicer, values: Tensor, weight: Tensor) -> None:
        """Add a tile's mean over mirrored copies, (K + 1, *patch): probabilities, then their entropy."""
        weight = weight.float()
        values = values.to(weight.device) * weight
        self.sums[:-1][tile] += values
        self.sums[-1][tile[1:]] += weight

    def crop(self, grid: Sequence[int]) -> None:
        """Leave nnU-Net's padding out, which has the image in its middle."""
        starts = [(padded - n) // 2 for padded, n in zip(self.sums.shape[1:], grid, strict=True)]
        for axis, (first, n) in enumerate(zip(starts, grid, strict=True)):
            self.sums = self.sums.narrow(axis + 1, first, n)

    @torch.inference_mode()
    def measure(self, logits: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """Return the map of uncertainty, (x, y, z), and the expected Dice of each label, (K,), on the CPU.

        Expected Dice is that of the predicted label L with the mean probabilities p in place of a reference,
        2 sum(p over L) / (sum(p) + |L|): the Dice that the ensemble itself expects, and as true as its
        probabilities are. No member's labels have to be kept for it.

        Args:
            logits: the ensemble's, (K, x, y, z), whose labels are predicted.
            kind: DISAGREEMENT or ENTROPY.
        """
        overlap, sizes = torch.zeros((2, len(logits)), dtype=torch.float64)
        names = torch.arange(len(logits), device=self.sums.device)[:, None, None, None]
        parts = []
        step = max(1, SLAB // max(1, logits[:, 0].numel()))
        for sums, own in zip(self.sums.split(step, 1), logits.split(step, 1), strict=True):
            mean = sums[:-2] / sums[-1]
            uncertainty = measure_entropy(mean, self.are_regions)
            if kind == DISAGREEMENT:
                uncertainty -= sums[-2] / sums[-1]
            parts.append(uncertainty.clamp_(min=0).cpu())  # it may be below by rounding
            own = own.to(mean.device)
            predicted = own > 0 if self.are_regions else own.argmax(0) == names
            overlap += (mean * predicted).sum((1, 2, 3)).cpu()
            sizes += (mean.sum((1, 2, 3)) + predicted.sum((1, 2, 3))).cpu()
        return torch.cat(parts), 2 * overlap / sizes


class MembersPredictor(BatchedPredictor):
    """BatchedPredictor that also sums up what its members predict; logits are the same.

    Args:
        uncertainty: what is measured of the members, DISAGREEMENT or ENTROPY.
        options: BatchedPredictor's, as `args`.
    """

    reuses_constant_tiles = False  # every tile is asked for its members

    def __init__(self, *args: Any, uncertainty: str = DISAGREEMENT, **options: Any) -> None:
        super().__init__(*args, **options)
        self.uncertainty = uncertainty
        self._members: MemberSums | None = None  # of the latest image
        self._copies: Tensor | None = None  # sum over the mirrored copies of the latest tiles
        self._n_predicted = 0  # tiles, by the present set of weights, since nnU-Net has begun or begun anew
        self._n_added = 0  # how many of them are in the sums

    def check_members(self) -> None:
        """Raise ValueError if a single member would have to disagree with itself."""
        if self.uncertainty == DISAGREEMENT and self.n_members == 1:
            raise ValueError(
                "disagreement needs two members, and one fold without mirrored copies is one. Predict with "
                "several folds (-f 0 1 2), or with mirrored copies (without --disable_tta, by a network that "
                "was trained with them), or ask for --uncertainty entropy."
            )

    @property
    def n_members(self) -> int:
        return len(self.list_of_parameters) * len(self._mirrorings())

    def take_members(self) -> MemberSums:
        """Return the sums of the image that was predicted last, and keep them no longer."""
        members, self._members = self._members, None
        assert members is not None  # `predict_logits` has made them
        return members

    def predict_logits(self, data: Tensor, case: str) -> Tensor:
        self._members = None
        logits = super().predict_logits(data, case)
        assert self._members is not None  # there is a tile
        self._members.crop(logits.shape[1:])
        return logits

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        self._n_added = 0
        return super().predict_sliding_window_return_logits(input_image)

    def _predict_tiles(self, data: Tensor, slicers: Sequence[Slicer], results: torch.device) -> Tensor:
        labels = self.label_manager
        if self._members is None:
            heads = labels.num_segmentation_heads
            self._members = MemberSums(heads, data.shape[1:], labels.has_regions, results)
        self._members.sums = self._members.sums.to(results)  # on the CPU if memory ran out
        self._n_predicted = 0
        logits = super()._predict_tiles(data, slicers, results)
        assert self._n_added == len(slicers)  # `_predict_group` has predicted each
        return logits

    def _predict_group(self, data: Tensor, group: Sequence[Slicer]) -> Tensor:
        self._copies = None
        predicted = super()._predict_group(data, group)
        assert self._members is not None and self._copies is not None
        values = self._copies.div_(len(self._mirrorings()))
        weight = self._tile_weight(self._members.sums.device)
        for tile, own in zip(group, values, strict=True):
            self._n_predicted += 1
            if self._n_predicted > self._n_added:  # else nnU-Net has begun anew, for memory ran out
                self._members.add(tile, own, weight)
                self._n_added += 1
        return predicted

    def _observe_copy(self, logits: Tensor) -> None:
        are_regions = self.label_manager.has_regions
        probabilities = to_probabilities(logits, are_regions)
        entropy = measure_entropy(probabilities, are_regions, dim=1)
        values = torch.cat([probabilities, entropy[:, None]], 1)
        self._copies = values if self._copies is None else self._copies.add_(values)
