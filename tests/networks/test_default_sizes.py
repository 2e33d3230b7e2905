"""Networks without plans: nnU-Net's default sizes, and a place in other people's pipelines."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.default_sizes import PATCH, default_features, default_sizes
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.plans.topology import plan_topology

PATCHES = [
    (128, 128, 128), (64, 64, 64), (40, 56, 40), (32, 128, 128), (8, 8, 8), (4, 16, 64), (50, 17, 33),
    (512, 512), (320, 320), (48, 200), (9, 8),
]  # fmt: skip


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_they_are_what_nnunet_makes_of_isotropic_voxels(patch):
    sizes = default_sizes(patch)
    strides, kernels, _ = plan_topology((1.0,) * len(patch), patch)
    assert [list(step) for step in sizes["strides"]] == strides
    assert [list(kernel) for kernel in sizes["kernel_sizes"]] == kernels
    assert sizes["features_per_stage"] == default_features(len(strides), len(patch))


def test_without_any_size_it_is_the_default_plan_of_large_volumes():
    with torch.device("meta"):
        bare = create_network("mm_unet", input_channels=1, num_classes=3)
        full = create_network(
            "mm_unet",
            input_channels=1,
            num_classes=3,
            features_per_stage=[32, 64, 128, 256, 320, 320],
            strides=[[1] * 3, *[[2] * 3] * 5],
            kernel_sizes=[[3] * 3] * 6,
            patch_size=PATCH,
        )
    shapes = [{name: p.shape for name, p in net.state_dict().items()} for net in (bare, full)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", list_networks())
def test_every_network_can_be_made_by_its_name_alone(name):
    with torch.device("meta"):
        network = create_network(name, input_channels=2, num_classes=4)
    assert sum(p.numel() for p in network.parameters()) > 5e5


DIVISIBLE, RAGGED = (16, 16, 32), (18, 20, 17)
WINDOWS = [("mm_unet", DIVISIBLE), ("mm_unet", RAGGED), ("umamba_enc", RAGGED), ("nnunet", DIVISIBLE)]
MORE_WINDOWS = [(name, patch) for name in ("umamba_bot", "mamba_multi") for patch in (DIVISIBLE, RAGGED)]


@pytest.mark.parametrize(
    ("name", "patch"),
    [*WINDOWS, *(pytest.param(*window, marks=pytest.mark.slow) for window in MORE_WINDOWS)],
    ids=str,
)
def test_monai_slides_a_window_over_a_volume(name, patch):
    """Also one that the strides do not divide: it is padded within."""
    torch.manual_seed(0)
    network = create_network(name, input_channels=1, num_classes=3, patch_size=patch).eval()
    volume = torch.randn(1, 1, 16, 24, 33)
    with torch.inference_mode():
        logits = sliding_window_inference(volume, patch, 1, network, overlap=0.25)
    assert logits.shape == (1, 3, 16, 24, 33) and logits.isfinite().all()


def test_monai_slides_a_window_over_a_picture():
    """A network of its own topology, smaller than its paper's."""
    small = {"features_per_stage": [8, 16, 32, 64], "patch_size": (32, 48)}
    network = create_network("vm_unet", input_channels=1, num_classes=2, **small).eval()
    with torch.inference_mode():
        logits = sliding_window_inference(torch.randn(1, 1, 50, 70), (32, 48), 2, network)
    assert logits.shape == (1, 2, 50, 70)


def test_a_patch_may_be_an_array():
    sizes = {"input_channels": 1, "num_classes": 2}
    with torch.device("meta"):
        given = [create_network("mm_unet", **sizes, patch_size=p) for p in ([16, 16], np.array([16, 16]))]
    assert len({len(list(network.parameters())) for network in given}) == 1


def test_in_2d_the_patch_says_so():
    network = create_network("mm_unet", input_channels=3, num_classes=2, patch_size=(32, 48)).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, 3, 32, 48)).shape == (2, 2, 32, 48)


@pytest.mark.parametrize("patch", [(4, 4, 4), (7, 6), (11, 4), (64,), (8, 8, 8, 8)], ids=str)
def test_a_patch_of_which_no_unet_can_be_made_is_refused(patch):
    with pytest.raises(ValueError, match=r"patch_size is \[.*\]; expected 2 or 3 axes that can be halved"):
        create_network("mm_unet", input_channels=1, num_classes=2, patch_size=patch)


def test_all_or_none_of_the_three_sizes():
    with pytest.raises(ValueError, match="Missing: strides, kernel_sizes"):
        create_network("mm_unet", input_channels=1, num_classes=2, features_per_stage=[8, 16])


def test_networks_of_their_own_topology_have_their_papers_features():
    for name in list_networks():
        config = get_config(name)
        if isinstance(config, FixedConfig):
            with torch.device("meta"):
                network = create_network(name, input_channels=3, num_classes=2)
                papers = create_network(
                    name, input_channels=3, num_classes=2, features_per_stage=config.features
                )
            assert {k: v.shape for k, v in network.state_dict().items()} == {
                k: v.shape for k, v in papers.state_dict().items()
            }
