"""What half precision may and may not do to a mixer."""

import pytest
import torch
from torch import nn

from nnunet_mamba.blocks.mixers import MambaMixer
from nnunet_mamba.ops.precision import FLOAT16_LIMIT, in_float32


class Huge(nn.Module):
    @in_float32
    def forward(self, x):
        assert x.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return x * 1e6


def test_float16_leaves_within_its_range():
    y = Huge()(torch.tensor([1.0, -1.0, 1e-4], dtype=torch.float16))
    assert y.dtype == torch.float16
    assert y.abs().max() == FLOAT16_LIMIT
    assert y[2] == pytest.approx(100, rel=1e-2)


def test_float16_autocast_limits_float32_features_too():
    """The next convolution would cast them to float16."""
    with torch.autocast("cpu", dtype=torch.float16):
        assert Huge()(torch.ones(1)).item() == FLOAT16_LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_left_alone(dtype):
    assert Huge()(torch.ones(1, dtype=dtype)).item() == pytest.approx(1e6, rel=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Huge()(torch.ones(1, dtype=dtype)).item() == pytest.approx(1e6, rel=1e-2)


def test_nan_is_not_hidden():
    assert Huge()(torch.tensor([torch.nan], dtype=torch.float16)).isnan().all()


def test_a_mixer_with_exploding_weights_stays_finite_in_float16_through_the_next_convolution():
    torch.manual_seed(0)
    mixer, conv = MambaMixer(16, 3), nn.Conv3d(16, 16, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, a=0.01)
    with torch.no_grad():
        mixer.mamba.out_proj.weight.mul_(1e7)
    x = torch.randn(1, 16, 4, 4, 4)
    assert mixer(x).abs().max() > torch.finfo(torch.float16).max
    with torch.autocast("cpu", dtype=torch.float16):
        assert conv(mixer(x)).isfinite().all()
