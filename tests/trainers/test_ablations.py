"""MM-UNet's ablations: each is what its name says, and trains."""

import pytest
import torch

from nnunet_mamba import trainers
from nnunet_mamba.networks import create_network
from nnunet_mamba.trainers import nnUNetTrainerMMUNet
from nnunet_mamba.trainers.ablations import ABLATIONS

ROWS = [f"B{n}" for n in range(1, 10)]
PLACEMENTS = ["SSMEncBot", "SSMAll", "SSMDecBot", "HybridOutside"]
SIZES = {
    "input_channels": 1,
    "num_classes": 3,
    "features_per_stage": (4, 8, 16),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((3, 3, 3),) * 3,
}


def test_every_row_of_the_papers_tables_is_a_trainer():
    names = {trainer.__name__ for trainer in ABLATIONS}
    assert names == {f"nnUNetTrainerMMUNet_{word}" for word in ROWS + PLACEMENTS}
    assert all(t.recipe is nnUNetTrainerMMUNet.recipe and t.n_supervised_scales == 3 for t in ABLATIONS)


@pytest.mark.parametrize("word", ROWS + PLACEMENTS)
def test_each_trains_a_step_with_a_gradient_everywhere(make_trainer, make_batch, word):
    trainer = make_trainer(getattr(trainers, f"nnUNetTrainerMMUNet_{word}"))
    trainer.initialize()
    result = trainer.train_step(make_batch(trainer))
    assert torch.isfinite(torch.as_tensor(result["loss"]))
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []


def parts_with_ssm(trainer_class) -> set[str]:
    network = create_network(trainer_class.network_name, **SIZES, **trainer_class.overrides)
    names = [name for name, _ in network.named_parameters() if name.endswith("A_log")]
    return {".".join(name.split(".")[:3]) for name in names}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("SSMEncBot", {"encoder.stages.1", "encoder.stages.2"}),
        ("SSMAll", {"encoder.stages.1", "encoder.stages.2", "decoder.stages.0", "decoder.stages.1"}),
        ("SSMDecBot", {"encoder.stages.2", "decoder.stages.0", "decoder.stages.1"}),
        ("HybridOutside", {"encoder.stages.1", "encoder.stages.2"}),
        ("B4", {"encoder.stages.1", "encoder.stages.2"}),
    ],
)
def test_mixers_stand_where_the_name_says_and_nowhere_in_the_twin(word, expected):
    trainer_class = getattr(trainers, f"nnUNetTrainerMMUNet_{word}")
    assert parts_with_ssm(trainer_class) == expected
    assert parts_with_ssm(getattr(trainers, f"nnUNetTrainerMMUNet_{word}NoSSM")) == set()


def test_scan_orders_share_one_twin():
    """Without a mixer there is no order; the twins are MM-UNet's, by name."""
    twins = [getattr(trainers, f"nnUNetTrainerMMUNet_{row}NoSSM") for row in ROWS]
    assert {(t.network_name, *t.overrides) for t in twins} == {("mm_unet_nossm",)}
