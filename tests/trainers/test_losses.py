"""The papers' loss, against numbers worked out by hand."""

import math

import pytest
import torch

from nnunet_mamba.trainers.losses import CrossEntropyAndSquaredDice


def test_a_perfect_answer_costs_nothing():
    target = torch.randint(0, 3, (2, 1, 4, 5)).float()
    logits = 50 * torch.nn.functional.one_hot(target[:, 0].long(), 3).movedim(-1, 1).float()
    assert CrossEntropyAndSquaredDice()(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_an_undecided_answer_by_hand():
    """Two classes, p = 1/2 everywhere; 8 voxels of which 2 are foreground.

    Dice of the background: 2 * 3 / (2 + 6) = 3/4, of the foreground: 2 * 1 / (2 + 2) = 1/2.
    """
    target = torch.zeros(2, 1, 2, 2)
    target[0, 0, 0] = 1
    expected = math.log(2) + 1 - (3 / 4 + 1 / 2) / 2
    for weight in (1.0, 0.5):
        value = CrossEntropyAndSquaredDice(weight)(torch.zeros(2, 2, 2, 2), target)
        assert value.item() == pytest.approx(weight * expected, rel=1e-5)


def test_a_class_that_is_absent_and_not_predicted_is_perfect():
    target = torch.zeros(1, 1, 2, 2)
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 100
    assert CrossEntropyAndSquaredDice()(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_give_a_float32_loss():
    loss = CrossEntropyAndSquaredDice()(torch.zeros(1, 2, 300, 300).half(), torch.ones(1, 1, 300, 300))
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
