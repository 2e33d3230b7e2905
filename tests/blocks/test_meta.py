"""The four placements, with branches simple enough to compute in the head."""

import pytest
import torch
from torch import nn

from nnunet_mamba.blocks.convolution import NearestUpsample, projection_skip
from nnunet_mamba.blocks.meta import MetaBlock


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("cnn", 1 + 2), ("hybrid_inside", 1 + 10 * 2), ("hybrid_outside", 10 * (1 + 2)), ("ssm", 1 + 10)],
)
def test_placements_by_hand(placement, expected):
    """F doubles, M multiplies by ten, x is 1: all positive, so the activation is the identity."""
    block = MetaBlock(
        placement, None if placement == "ssm" else Times(2), None if placement == "cnn" else Times(10)
    )
    assert block(torch.ones(1)).item() == expected


def test_the_activation_comes_last_but_before_an_outside_mixer():
    negative = torch.full((1,), -1.0)
    assert MetaBlock("cnn", Times(2), None)(negative).item() == pytest.approx(-0.03)
    assert MetaBlock("hybrid_inside", Times(2), Times(10))(negative).item() == pytest.approx(-0.21)
    assert MetaBlock("hybrid_outside", Times(2), Times(10))(negative).item() == pytest.approx(-0.3)


def test_without_its_mixer_a_block_is_its_convolutions_and_an_ssm_block_nothing():
    for placement, expected in (("hybrid_inside", 3), ("hybrid_outside", 3), ("ssm", 1)):
        assert MetaBlock(placement, Times(2), None)(torch.ones(1)).item() == expected


def test_an_ssm_block_adds_no_second_residual_to_a_mixer_that_has_one():
    mixer = Times(11)
    mixer.residual = True
    assert MetaBlock("ssm", None, mixer)(torch.ones(1)).item() == 11
    assert MetaBlock("hybrid_inside", Times(2), mixer)(torch.ones(1)).item() == 1 + 11 * 2


def test_an_unknown_placement_is_named():
    with pytest.raises(ValueError, match="Unknown placement 'parallel'; choose one of cnn, ssm"):
        MetaBlock("parallel", None, None)


def test_the_way_around_is_the_identity_where_it_can_be():
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(projection_skip(4, 4, (1, 1))(x), x)
    assert projection_skip(4, 8, (2, 1))(x).shape == (1, 8, 3, 6)
    assert not list(projection_skip(4, 4, (2, 2)).parameters())


def test_nearest_upsampling_commutes_with_its_convolution():
    upsample = NearestUpsample(3, 5, (2, 1, 3)).double()
    x = torch.randn(2, 3, 2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(upsample(x), upsample.conv(upsample.upsample(x)))
