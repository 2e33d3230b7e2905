"""nnMamba's mixer, and its last layer."""

import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.mixers import to_map, to_tokens
from nnunet_mamba.networks.mixer_config import Mixer
from nnunet_mamba.networks.nn_mamba_unet import FlippedMamba
from nnunet_mamba.scan_order import scan_order

SIZES = {"input_channels": 1, "num_classes": 2, "features_per_stage": [16] * 4, "depths": [1, 1, 2]}


def test_the_mixer_is_the_mean_of_one_mamba_over_voxels_and_channels_in_both_orders():
    torch.manual_seed(0)
    x, grid = torch.randn(2, 6, 2, 3, 4, dtype=torch.float64), (2, 3, 4)
    mixer = FlippedMamba(6, Mixer(order="bi", shared=True)).double()
    single = Mamba(6, scan_order("uni", 3)).double()
    single.load_state_dict(mixer.mamba.state_dict())
    flips = [(), (1,), (2,), (1, 2)]  # of tokens, of channels
    walks = [single(to_tokens(x).flip(axes), grid).flip(axes) for axes in flips]
    torch.testing.assert_close(mixer(x), to_map(sum(walks) / 4, x))


def test_without_the_last_relu_logits_may_be_negative_and_are_otherwise_the_same():
    torch.manual_seed(0)
    network = create_network("nnmamba", **SIZES).eval()
    free = create_network("nnmamba", **SIZES, final_act=False).eval()
    free.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 16, 16, 32)
    with torch.no_grad():
        logits = free(x)
        assert logits.min() < 0
        assert torch.equal(network(x), logits.relu())


def test_a_single_image_of_one_voxel_in_the_deepest_stage_cannot_be_trained_with():
    """Only there: a larger batch, a longer axis and prediction need no more."""
    network = create_network("nnmamba", **SIZES)
    with pytest.raises(
        ValueError, match=r"Patch \(16, 16, 16\) is too small .* more than 16 voxels .* batch"
    ):
        network(torch.zeros(1, 1, 16, 16, 16))
    for size in ((2, 1, 16, 16, 16), (1, 1, 8, 16, 17)):
        assert network(torch.randn(size)).isfinite().all()
    assert network.eval()(torch.randn(1, 1, 16, 16, 16)).isfinite().all()
