"""Conditions: each change of an image by its definition, and noise that a case's name decides."""

import numpy as np
import pytest
import torch

from nnunet_mamba.inference.conditions import Conditions, draw_noise

SHAPE = (3, 12, 13, 14)


@pytest.fixture
def image():
    """Two channels of an image, of other ranges, and one of labels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(SHAPE, generator=generator)
    image[1] = 5 + 100 * image[1].abs()
    image[2] = image[2] > 0
    return image


def test_the_defaults_change_nothing(image):
    assert Conditions().change_image(image, "a", 2) is image


def test_noise_is_white_and_of_a_part_of_each_channels_deviation(image):
    noise = Conditions(noise=0.25).change_image(image, "a", 2) - image
    for channel, own in zip(noise[:2], image[:2], strict=True):
        assert channel.std() / own.std() == pytest.approx(0.25, rel=0.05)
        assert abs(channel.mean() / own.std()) < 0.02
        neighbours = torch.stack((channel[1:].flatten(), channel[:-1].flatten()))
        assert abs(torch.corrcoef(neighbours)[0, 1]) < 0.07
    assert (noise[2] == 0).all()


def test_noise_is_that_of_the_case_whatever_the_rest():
    one = draw_noise("a", (1, 4, 5, 6))
    assert one.dtype == torch.float32 and torch.equal(one, draw_noise("a", (1, 4, 5, 6)))
    assert not torch.equal(one, draw_noise("b", (1, 4, 5, 6)))
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(one, draw_noise("a", (1, 4, 5, 6)))


def test_brightness_moves_each_channel_by_a_part_of_its_deviation(image):
    moved = Conditions(brightness=-0.5).change_image(image, "a", 2) - image
    for channel, own in zip(moved[:2], image[:2], strict=True):
        expected = torch.full_like(own, -0.5 * own.std(correction=0))
        torch.testing.assert_close(channel, expected, rtol=1e-4, atol=1e-4)
    assert (moved[2] == 0).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gamma_bends_each_channel_between_its_ends(image, gamma):
    bent = Conditions(gamma=gamma).change_image(image, "a", 2)
    for channel, own in zip(bent[:2], image[:2], strict=True):
        least, width = own.min(), own.max() - own.min()
        torch.testing.assert_close((channel - least) / width, ((own - least) / width) ** gamma)
        assert channel.min() == least and channel.max() == pytest.approx(own.max().item())
        assert (channel.mean() < own.mean()) == (gamma > 1)
    assert torch.equal(bent[2], image[2])


def test_a_channel_of_one_value_stays(image):
    image[0] = 3
    changed = Conditions(gamma=2, brightness=1, noise=1).change_image(image, "a", 2)
    assert (changed[0] == 3).all() and changed.isfinite().all()


def test_changes_come_in_their_order(image):
    bent = Conditions(gamma=2).change_image(image, "a", 2)
    deviation = image[:2].std((1, 2, 3), correction=0, keepdim=True)
    expected = bent[:2] + deviation + 0.5 * deviation * draw_noise("a", (2, *SHAPE[1:]))
    changed = Conditions(gamma=2, brightness=1, noise=0.5).change_image(image, "a", 2)
    torch.testing.assert_close(changed[:2], expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"noise": -0.1}, "noise is -0.1; expected a number of at least 0"),
        ({"noise": float("inf")}, "noise is inf; expected a number of at least 0"),
        ({"gamma": 0.0}, "gamma is 0.0; expected a number above 0"),
        ({"brightness": float("nan")}, "brightness is nan; expected a number"),
        ({"step_size": 1.5}, "step_size is 1.5; expected more than 0 and at most 1"),
    ],
)
def test_what_means_nothing_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Conditions(**wrong)
