"""Trainers of the positive control (docs/longrange.md): one recipe, 600 steps, no augmentation.

nnU-Net's rotations and zooms, and its patches around foreground, would move cues out of the patch, which is
the whole image; so there are none, and no mirrored copies at inference.
"""

import torch
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

from nnunet_mamba.trainers.ablations import ABLATIONS, OTHER_MIXERS
from nnunet_mamba.trainers.networks import PLANNED
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer
from nnunet_mamba.trainers.recipes import Recipe
from nnunet_mamba.trainers.variants import index_by_name, make_twin, make_variant

RECIPE = Recipe(
    settings={
        "num_epochs": 24,
        "num_iterations_per_epoch": 25,
        "num_val_iterations_per_epoch": 4,
        "initial_lr": 2e-3,
        "oversample_foreground_percent": 0.0,
    },
    optimizer=torch.optim.AdamW,
    options={},
)
IN_2D = {"nnUNetTrainerMambaMulti": {"order": "multi"}}  # the authors' eight directions are of volumes


class nnUNetTrainerControl(RecipeTrainer):
    """Control with the network of the plans, nnU-Net's, plain or ResEnc."""


def _make_trainer(trainer: type[RecipeTrainer]) -> type[RecipeTrainer]:
    overrides = {"overrides": IN_2D[trainer.__name__]} if trainer.__name__ in IN_2D else {}
    unaugmented = type(trainer.__name__, (nnUNetTrainerNoDA, trainer), {"__doc__": trainer.__doc__})
    return make_variant(unaugmented, "_longrange", recipe=RECIPE, **overrides)


_trainers = (nnUNetTrainerControl, *PLANNED, *map(make_twin, PLANNED), *ABLATIONS, *OTHER_MIXERS)
globals().update(index_by_name(map(_make_trainer, _trainers), __name__))
