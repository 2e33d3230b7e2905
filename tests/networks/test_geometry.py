"""Sizes of stages, worked out by hand."""

import torch

from nnunet_mamba import create_network
from nnunet_mamba.blocks.mixers import ChannelMixer
from nnunet_mamba.networks.geometry import Sizes, read_geometry
from nnunet_mamba.networks.unet import crop, pad_to_multiple

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))


def test_stages_have_the_grid_of_the_padded_patch():
    """9 x 11 x 20 is padded to 10 x 12 x 20, a multiple of the total stride 2 x 4 x 4."""
    geometry = read_geometry(
        Sizes(
            1,
            2,
            features_per_stage=(4, 8, 16),
            strides=STRIDES,
            kernel_sizes=(3, 3, 3),
            patch_size=(9, 11, 20),
        )
    )
    assert geometry.total_strides == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    assert [geometry.grid(stage) for stage in range(3)] == [(10, 12, 20), (10, 6, 10), (5, 3, 5)]


def test_padding_is_at_the_far_ends_so_that_cropping_takes_it_away():
    x = torch.arange(1.0, 7).view(1, 1, 2, 3, 1)
    padded = pad_to_multiple(x, (1, 2, 4))
    assert padded.shape == (1, 1, 2, 4, 4)
    assert torch.equal(crop(padded, (2, 3, 1)), x) and padded.sum() == x.sum()


def test_a_patch_that_does_not_divide_is_seen_where_it_is():
    """The logits of a padded patch, cropped: no voxel moves."""
    sizes = {"features_per_stage": [4, 8, 8], "strides": STRIDES, "kernel_sizes": [3, 3, 3]}
    network = create_network("nnunet", input_channels=1, num_classes=2, **sizes).eval()
    x = torch.randn(1, 1, 9, 11, 20)
    expected = network(torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 1)))[:, :, :9, :11]
    assert torch.equal(network(x), expected)


def test_channels_are_tokens_where_the_padded_grid_has_as_many_voxels():
    """5 x 5 x 5 is padded to 8 x 8 x 8; at the next stage 4 x 4 x 4 voxels meet 64 channels."""
    for channels, is_channel_mixer in ((64, True), (63, False)):
        network = create_network(
            "umamba_enc",
            input_channels=1,
            num_classes=2,
            features_per_stage=[4, channels, channels],
            strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            kernel_sizes=[3, 3, 3],
            patch_size=[5, 5, 5],
        )
        assert isinstance(network.encoder.stages[1][-1], ChannelMixer) == is_channel_mixer
        assert network(torch.zeros(1, 1, 5, 5, 5)).shape == (1, 2, 5, 5, 5)
