"""Losses of the papers that nnU-Net does not have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTH = 1e-5


class CrossEntropyAndSquaredDice(nn.Module):
    """`weight` (cross-entropy + Dice loss with squared denominators), the background one class of many.

        dice_c = 1 - (2 sum p_c t_c + s) / (sum p_c^2 + sum t_c^2 + s),    s = 1e-5

    p softmax, t one-hot, sums over all voxels of the batch, mean over the classes. Computed in float32.

    Shape: logits (B, C, *grid), target (B, 1, *grid) with labels 0 ... C-1 -> scalar.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, labels = logits.float(), target[:, 0].long()
        probabilities = logits.softmax(1)
        truth = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1)
        voxels = [0, *range(2, logits.ndim)]
        overlap = (probabilities * truth).sum(voxels)
        size = probabilities.square().sum(voxels) + truth.sum(voxels)
        dice = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH)
        return self.weight * (F.cross_entropy(logits, labels) + dice.mean())
