"""Trainers of the benchmark: the family, its twins and nnU-Net's network, all by one recipe and one budget.

The budget is 240 steps, and nnU-Net's momentum of 0.99 averages over 100: with it nnU-Net's own network
learns nothing in 250. So `RECIPE` has momentum 0.9 and ten times the learning rate, which is the same
long-run step, rate / (1 - momentum) = 1. It replaces MM-UNet's own, smaller rate; the three supervised scales
stay.
"""

from typing import Any

from torch import nn

from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import OUTPUTS
from nnunet_mamba.trainers.ablations import ABLATIONS, OTHER_MIXERS
from nnunet_mamba.trainers.networks import (
    PLANNED,
    nnUNetTrainerMMUNet,
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerVMUNet,
)
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer
from nnunet_mamba.trainers.recipes import Recipe
from nnunet_mamba.trainers.variants import index_by_name, make_twin, make_variant

RECIPE = Recipe(
    settings={
        "num_epochs": 8,
        "num_iterations_per_epoch": 30,
        "num_val_iterations_per_epoch": 1,
        "initial_lr": 1e-1,
    },
    options={"momentum": 0.9, "nesterov": True},
)
STEPS_1200 = {  # in 3D, of VM-UNet in 2D
    "num_epochs": 30,
    "num_iterations_per_epoch": 40,
    "num_val_iterations_per_epoch": 5,
    "initial_lr": 1e-2,
    "save_every": 1,
}
IN_2D = {  # the authors' eight directions are of volumes
    "nnUNetTrainerMambaMulti": {"order": "multi"},
    "nnUNetTrainerMambaMulti_Conv": {"mixer": "conv", "order": "multi"},
}


class nnUNetTrainerControl(RecipeTrainer):
    """Control with the network of the plans, nnU-Net's, plain or ResEnc."""


def _benchmarked(trainer: type[RecipeTrainer]) -> type[RecipeTrainer]:
    overrides = {"overrides": IN_2D[trainer.__name__]} if trainer.__name__ in IN_2D else {}
    return make_variant(trainer, "_bench", recipe=RECIPE, **overrides)


def _reading(trainer: type[RecipeTrainer], output: str) -> type[RecipeTrainer]:
    """Return `trainer` with another output of its mixers, one of `blocks.mixers.OUTPUTS`."""
    return make_variant(trainer, f"_{output}", overrides={**trainer.overrides, "mixer_output": output})


class nnUNetTrainerMMUNetNoSSM_small(make_twin(nnUNetTrainerMMUNet)):  # type: ignore[misc]
    """MM-UNet's twin whose encoder adds as little at first as with a `bare` mixer: act(x + 0.06 F(x))."""

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        sizes = (num_input_channels, num_output_channels, enable_deep_supervision)
        network = super().build_network_architecture(plans_manager, configuration_manager, *sizes)
        for module in network.get_submodule("encoder").modules():
            if isinstance(module, MetaBlock):
                module.convs.register_forward_hook(lambda module, inputs, output: 0.06 * output)
        return network


READINGS = tuple(_reading(nnUNetTrainerMMUNet, output) for output in OUTPUTS)
_trainers = (
    nnUNetTrainerControl,
    *PLANNED,
    *map(make_twin, PLANNED),
    *READINGS,
    nnUNetTrainerMMUNetNoSSM_small,
    *(_reading(trainer, "residual") for trainer in (nnUNetTrainerUMambaBot, nnUNetTrainerUMambaEnc)),
    *ABLATIONS,
    *OTHER_MIXERS,
    *(make_twin(trainer) for trainer in ABLATIONS if "encoder" in trainer.overrides),
    make_variant(nnUNetTrainerMMUNet, "_multi", overrides={"order": "multi"}),
)
_longer = (*_trainers, nnUNetTrainerVMUNet, make_twin(nnUNetTrainerVMUNet))
_of_1200_steps = (make_variant(trainer, "_1200steps", settings=STEPS_1200) for trainer in _longer)
globals().update(index_by_name((*map(_benchmarked, _trainers), *_of_1200_steps), __name__))
