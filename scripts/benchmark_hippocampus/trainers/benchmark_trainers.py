"""The benchmark's trainers: the family, its twins and nnU-Net's network, all by one recipe and one budget.

The recipe is nnU-Net's (MM-UNet's own starts at a tenth of its learning rate), the budget is `BUDGET`. What a
network's authors made part of it stays: MM-UNet's three supervised scales.
"""

from nnunet_mamba.trainers.family import PLANNED
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer
from nnunet_mamba.trainers.recipes import NNUNET
from nnunet_mamba.trainers.variants import by_name, twin, variant

BUDGET = {
    "num_epochs": 10,
    "num_iterations_per_epoch": 25,
    "num_val_iterations_per_epoch": 1,
    "initial_lr": 1e-2,
}
IN_2D = {"nnUNetTrainerMambaMulti": {"order": "multi"}}  # the authors' eight walks are of volumes


class nnUNetTrainerControl(RecipeTrainer):
    """The network that the plans say: nnU-Net's, plain or ResEnc."""


def _benchmarked(trainer: type[RecipeTrainer]) -> type[RecipeTrainer]:
    overrides = {"overrides": IN_2D[trainer.__name__]} if trainer.__name__ in IN_2D else {}
    return variant(trainer, "_bench", recipe=NNUNET, settings=BUDGET, **overrides)


_trainers = (nnUNetTrainerControl, *PLANNED, *map(twin, PLANNED))
globals().update(by_name(map(_benchmarked, _trainers), __name__))
