"""The study of the positive control: its trainers exist; its distances are beyond what convolutions see."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunet_mamba import create_network

SCRIPTS = Path(__file__).parents[2] / "scripts"
STUDY = (SCRIPTS / "longrange.yaml").read_text()
PLANS = json.loads((SCRIPTS / "longrange" / "shallow.json").read_text())["configurations"]["2d"]
HEIGHT, LENGTH = 32, 256  # longer than the images, so that no border hides what a network sees


@pytest.fixture(scope="module")
def trainers():
    file = SCRIPTS / "longrange" / "trainers" / "longrange_trainers.py"
    return runpy.run_path(str(file), run_name="longrange_trainers")


def test_every_trainer_of_the_study_exists_and_does_not_augment(trainers):
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

    named = set(re.findall(r"trainer: (\w+)", STUDY))
    assert len(named) > 10
    for name in named:
        assert trainers[name].__mro__.index(nnUNetTrainerNoDA) < 4, name
        assert trainers[name].recipe.settings["oversample_foreground_percent"] == 0


def measure_reach(network):
    """Pixels along an image from an output to the farthest input that moves it, without the norms' means."""
    for parent in list(network.double().modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(parent, name, nn.Identity())
    x = torch.randn(1, 1, HEIGHT, LENGTH, dtype=torch.double, requires_grad=True)
    logits = network(x)
    logits = logits[0] if isinstance(logits, (list, tuple)) else logits
    reach = 0
    for column in range(LENGTH // 2, LENGTH // 2 + 4):  # a multiple of the strides
        (gradient,) = torch.autograd.grad(logits[0, :, HEIGHT // 2, column].sum(), x, retain_graph=True)
        reach = max(reach, int((gradient[0, 0].abs().amax(0).nonzero() - column).abs().max()))
    return reach


@pytest.mark.parametrize(
    "name, mixer, reach",
    [
        ("nnunet", None, 20),
        ("mm_unet", "none", 26),
        ("umamba_bot", "none", 36),
        ("mamba_uni", "none", 41),
        ("mm_unet", "mamba", LENGTH // 2 + 3),
        ("mm_unet", "attention", LENGTH // 2 + 3),
    ],
)
def test_convolutions_see_less_than_64_pixels_and_mixers_see_all(name, mixer, reach):
    torch.manual_seed(0)
    sizes = {key: PLANS[key] for key in ("patch_size", "strides", "kernel_sizes", "features_per_stage")}
    words = {} if mixer is None else {"mixer": mixer}
    assert measure_reach(create_network(name, input_channels=1, num_classes=3, **sizes, **words)) == reach
