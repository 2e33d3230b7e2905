"""LightM-UNet's smallest inputs."""

import pytest
import torch

from nnunet_mamba import create_network


def light_unet(deepest):
    return create_network(
        "lightm_unet",
        input_channels=1,
        num_classes=2,
        features_per_stage=[8, 8, 8, deepest],
        patch_size=[8, 8],
    )


@pytest.mark.parametrize("training", [True, False])
def test_a_single_image_of_one_voxel_and_one_channel_per_group_is_refused(training):
    """Only there: a larger batch, a longer axis and more features need no more."""
    network = light_unet(8).train(training)
    with pytest.raises(
        ValueError, match=r"Patch \(8, 8\) is too small .* more than 8 voxels .* larger batch"
    ):
        network(torch.zeros(1, 1, 8, 8))
    for size in ((2, 1, 8, 8), (1, 1, 8, 9)):
        assert network(torch.randn(size)).isfinite().all()
    assert light_unet(16).train(training)(torch.randn(1, 1, 8, 8)).isfinite().all()
