"""Conditions under which a trained model predicts: the network's mixers, the sliding window, and the image.

An image is changed after its preprocessing, channel by channel. With x a channel of the preprocessed image,
a and b its least and largest value, and s its standard deviation over all voxels, in this order:

    gamma       x <- a + (b - a) ((x - a) / (b - a))^gamma
    brightness  x <- x + brightness s
    noise       x <- x + noise s n, where n is white Gaussian noise of deviation 1

The noise is drawn from the case's name and the shape of its preprocessed image alone: it is the same each
time, and for all methods that preprocess alike.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

POSITIVE, NOT_NEGATIVE, FINITE = "a number above 0", "a number of at least 0", "a number"


@dataclass(frozen=True)
class Conditions:
    """Conditions of a prediction; the defaults are those of nnU-Net's final validation.

    without_mixer  switch the network's mixers off, see `networks.twins`
    mirroring      average over mirrored copies
    step_size      from tile to tile, in patches
    gamma, brightness, noise  changes of the image, see above

    Raises ValueError for values that mean nothing.
    """

    without_mixer: bool = False
    mirroring: bool = True
    step_size: float = 0.5
    gamma: float = 1.0
    brightness: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        fits = {
            "gamma": (self.gamma > 0, POSITIVE),
            "brightness": (True, FINITE),
            "noise": (self.noise >= 0, NOT_NEGATIVE),
        }
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size is {self.step_size}; expected more than 0 and at most 1.")
        for name, (does_fit, expected) in fits.items():
            if not (does_fit and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; expected {expected}.")

    def change_image(self, image: Tensor, case: str, n_channels: int) -> Tensor:
        """Return a preprocessed image (C, x, y, z) with the changes in its first `n_channels` channels; those
        of a cascade's previous stage, behind them, stay as they are."""
        if (self.gamma, self.brightness, self.noise) == (1, 0, 0):
            return image
        own = image[:n_channels]
        axes = tuple(range(1, image.ndim))
        deviation = own.double().std(axes, correction=0, keepdim=True).to(own)
        changed = own
        if self.gamma != 1:
            least, largest = own.amin(axes, keepdim=True), own.amax(axes, keepdim=True)
            width = largest - least
            part = (own - least) / torch.where(width > 0, width, 1)
            changed = least + width * part**self.gamma
        changed = changed + self.brightness * deviation
        if self.noise:
            changed = changed + self.noise * deviation * draw_noise(case, tuple(own.shape)).to(own)
        return torch.cat((changed, image[n_channels:]))


def draw_noise(case: str, shape: tuple[int, ...]) -> Tensor:
    """Return white Gaussian noise of deviation 1, which depends on a case's name and the shape alone."""
    seed = int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))
