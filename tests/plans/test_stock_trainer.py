"""Plans that name our networks, trained by nnU-Net's own trainers; and read by ours."""

import warnings

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from nnunet_mamba import trainers
from nnunet_mamba.plans import load_template
from nnunet_mamba.plans.apply import apply_template
from nnunet_mamba.plans.architecture import count_outputs, replace_network
from nnunet_mamba.trainers.variants import make_variant

CASES = [  # network, configuration, nnU-Net's trainer
    ("mm_unet", "3d_fullres", nnUNetTrainer),
    ("umamba_enc", "3d_fullres", nnUNetTrainer),
    ("umamba_enc_nossm", "2d", nnUNetTrainer),
    ("swin_umamba", "2d", nnUNetTrainer),
    ("swin_umamba_d", "2d", nnUNetTrainer),
    ("vm_unet", "2d", nnUNetTrainerNoDeepSupervision),
    ("segmamba", "3d_fullres", nnUNetTrainerNoDeepSupervision),
    ("lightm_unet", "2d", nnUNetTrainerNoDeepSupervision),
    ("lightm_unet", "3d_fullres", nnUNetTrainerNoDeepSupervision),
]

VSS = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
SMALL = {  # sizes of networks of own topology, which have hundreds of channels
    "swin_umamba": {**VSS, "features_per_stage": [4, 8, 16, 32, 64]},
    "swin_umamba_d": VSS,
    "vm_unet": VSS,
    "segmamba": {"features_per_stage": [4, 4, 8, 8], "depths": [1, 1, 1, 2]},
    "lightm_unet": {"features_per_stage": [8, 8, 8, 16], "depths": [1, 1, 1, 2]},
}


@pytest.fixture
def named_plans(make_plans):
    """A function: small plans made by a template, with a network by its dotted path."""

    def make(network: str, **sizes: list[int]) -> dict:
        plans = make_plans(n_stages=3, patch=(32, 32, 32))
        plans["configurations"]["2d"].update(patch_size=[64, 64], median_image_size_in_voxels=[64.0, 64.0])
        for own in plans["configurations"].values():
            own["batch_size"] = 9
        plans = apply_template(plans, load_template("cpu"), "nnUNetPlans_cpu", network=network).plans
        for own in plans["configurations"].values():
            own["architecture"]["arch_kwargs"].update(sizes)
        return plans

    return make


def batch_for(trainer) -> dict:
    """Random data, and a target at each resolution that nnU-Net's trainer supervises."""
    grid = trainer.configuration_manager.patch_size
    scales = trainer._get_deep_supervision_scales() or [[1.0] * len(grid)]
    grids = [[round(size * s) for size, s in zip(grid, scale, strict=True)] for scale in scales]
    target = [torch.randint(0, 3, (trainer.batch_size, 1, *g)).float() for g in grids]
    data = torch.randn(trainer.batch_size, 1, *grid)
    return {"data": data, "target": target if trainer.enable_deep_supervision else target[0]}


@pytest.mark.parametrize(("network", "configuration", "trainer_class"), CASES, ids=lambda v: str(v))
def test_nnunets_own_trainer_takes_a_step(make_trainer, named_plans, network, configuration, trainer_class):
    plans = named_plans(network, **SMALL.get(network, {}))
    trainer = make_trainer(trainer_class, plans, configuration)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the weight of a single scale is 0 / 0
        trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    result = trainer.train_step(batch_for(trainer))
    assert np.isfinite(result["loss"])
    after = trainer.network.parameters()
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())
    assert any(not torch.equal(b, a) for b, a in zip(before, after, strict=True))
    if trainer.enable_deep_supervision:
        assert count_outputs(network, len(trainer.configuration_manager.pool_op_kernel_sizes)) > 1


@pytest.mark.parametrize("network", ["vm_unet", "mamba_unet", "segmamba"])
def test_networks_of_one_output_are_those_without_deep_supervision(network):
    assert count_outputs(network, 6) == 1


@pytest.mark.parametrize(("network", "expected"), [("mm_unet", 3), ("umamba_bot", 5), ("swin_umamba", 4)])
def test_the_number_of_outputs(network, expected):
    assert count_outputs(network, 6) == expected


@pytest.mark.parametrize(
    ("name", "network", "configuration"),
    [
        ("nnUNetTrainerMMUNet", "mm_unet", "3d_fullres"),
        ("nnUNetTrainerUMambaEnc_demo", "umamba_enc", "3d_fullres"),
        ("nnUNetTrainerMMUNet", "umamba_enc", "2d"),  # the plans name another: the trainer's counts
        ("nnUNetTrainerSwinUMamba", "swin_umamba", "2d"),
        ("nnUNetTrainerVMUNet", "vm_unet", "2d"),
    ],
)
def test_our_trainers_read_such_plans(make_trainer, make_batch, named_plans, name, network, configuration):
    trainer_class = getattr(trainers, name)
    if network in SMALL:
        trainer_class = make_variant(trainer_class, "", overrides=SMALL[network])
    trainer = make_trainer(trainer_class, named_plans(network), configuration)
    trainer.initialize()
    loss = trainer.train_step(batch_for(trainer))["loss"]
    assert np.isfinite(loss)


def test_the_demo_says_that_it_cannot_cut_a_network_of_own_topology(make_trainer, named_plans):
    with pytest.raises(ValueError, match="has no features_per_stage"):
        make_trainer(trainers.nnUNetTrainerMMUNet_demo, named_plans("vm_unet"), "2d")


def test_a_patch_that_differs_from_its_architecture_is_refused(make_plans):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_mamba.plans import network_kwargs

    plans = make_plans()
    own = plans["configurations"]["3d_fullres"]
    own["architecture"] = replace_network(own["architecture"], "umamba_enc", (32, 32, 32))
    with pytest.raises(ValueError, match=r"patch_size is \[16, 16, 16\], but in its architecture"):
        network_kwargs(PlansManager(plans).get_configuration("3d_fullres"))
