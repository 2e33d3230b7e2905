"""Weights with the names of OpenMind's ResEnc-L checkpoints, and nnU-Net's loader of -pretrained_weights.

Made here, small: nnssl builds its ResEnc-L of the same class, with one channel in and out, kernels of 3 and
strides of 2 throughout (docs/checkpoints.md).
"""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.run.run_training import maybe_load_checkpoint
from torch import nn

from nnunet_mamba import trainers
from nnunet_mamba.trainers.baselines import nnUNetTrainerControl

SIZES = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_blocks_per_stage": [1, 2, 2],
    "n_conv_per_stage_decoder": [1, 1],
}


@pytest.fixture
def resenc_plans(make_plans):
    """A function: plans as nnU-Net's ResEnc planners write them."""

    def make(**changes) -> dict:
        plans = make_plans(patch=(16, 16, 16))
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = f"{ResidualEncoderUNet.__module__}.ResidualEncoderUNet"
        del architecture["arch_kwargs"]["n_conv_per_stage"]
        architecture["arch_kwargs"] |= SIZES | changes
        return plans

    return make


@pytest.fixture
def pretrained(tmp_path):
    """A function: a file like OpenMind's, of keys that begin with `part`, for `channels` of the input."""

    def make(part: str = "", channels: int = 1) -> str:
        network = ResidualEncoderUNet(
            channels,
            conv_op=nn.Conv3d,
            num_classes=1,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **SIZES,
        )
        weights = {key: value for key, value in network.state_dict().items() if key.startswith(part)}
        plan = {"key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem"}
        torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan}, tmp_path / "resenc.pth")
        return str(tmp_path / "resenc.pth")

    return make


def test_the_control_on_resenc_plans_takes_all_but_the_heads(make_trainer, resenc_plans, pretrained):
    file = pretrained()
    weights = torch.load(file)["network_weights"]
    trainer = make_trainer(nnUNetTrainerControl, resenc_plans())
    trainer.initialize()
    heads = {k: v.clone() for k, v in trainer.network.state_dict().items() if ".seg_layers." in k}
    maybe_load_checkpoint(trainer, False, False, file)
    loaded = trainer.network.state_dict()
    assert loaded.keys() == weights.keys() and heads
    for key, value in loaded.items():
        assert torch.equal(value, heads.get(key, weights[key]))
    other = make_trainer(nnUNetTrainerControl, resenc_plans())
    other.initialize()
    assert not torch.equal(next(other.network.parameters()), next(trainer.network.parameters()))


@pytest.mark.parametrize(
    ("file", "plans", "message"),
    [
        ({"part": "encoder."}, {}, r"Key decoder\.\S+ is missing in the pretrained model weights"),
        ({"channels": 2}, {}, r"shape of the parameters of key encoder\.stem\S+ is not the same"),
        ({}, {"kernel_sizes": [[1, 3, 3], *SIZES["kernel_sizes"][1:]]}, "key encoder.stem.* is not the same"),
        ({}, {"n_blocks_per_stage": [1, 3, 2]}, r"Key encoder\.stages\.1\.blocks\.2\S+ is missing"),
    ],
    ids=["the encoder alone", "other channels", "anisotropic plans", "more blocks"],
)
def test_what_does_not_fit_ends_before_training(make_trainer, resenc_plans, pretrained, file, plans, message):
    with pytest.raises(AssertionError, match=message):
        maybe_load_checkpoint(
            make_trainer(nnUNetTrainerControl, resenc_plans(**plans)), False, False, pretrained(**file)
        )


@pytest.mark.parametrize("name", ["UMamba2", "UMamba2NoSSM", "UMambaBot", "MambaUni", "MMUNet"])
def test_our_own_networks_name_weights_otherwise(make_trainer, resenc_plans, pretrained, name):
    trainer = make_trainer(getattr(trainers, f"nnUNetTrainer{name}"), resenc_plans())
    with pytest.raises(AssertionError, match=r"Key encoder\.\S+ is missing in the pretrained model weights"):
        maybe_load_checkpoint(trainer, False, False, pretrained())
