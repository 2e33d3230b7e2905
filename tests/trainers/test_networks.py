"""Networks of the family: each has a trainer, and MM-UNet's ablations are what their names say."""

import re

import pytest
import torch

from nnunet_mamba import trainers
from nnunet_mamba.blocks.vss import DropPath
from nnunet_mamba.networks import create_network
from nnunet_mamba.networks.family import FAMILY
from nnunet_mamba.nnunet.catalogue import TRAINERS
from nnunet_mamba.trainers import nnUNetTrainerMMUNet, recipes
from nnunet_mamba.trainers.ablations import ABLATIONS
from nnunet_mamba.trainers.mamba import MambaTrainer
from nnunet_mamba.trainers.networks import FIXED

ROWS = [f"B{n}" for n in range(1, 10)]
PLACEMENTS = ["SSMEncBot", "SSMAll", "SSMDecBot", "HybridOutside", "DecoderOnly"]
SIZES = {
    "input_channels": 1,
    "num_classes": 3,
    "features_per_stage": (4, 8, 16),
    "strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "kernel_sizes": ((3, 3, 3),) * 3,
}


def test_every_row_of_the_papers_tables_is_a_trainer_and_one_beyond_them():
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
        ("DecoderOnly", {"decoder.stages.0", "decoder.stages.1"}),
        ("B4", {"encoder.stages.1", "encoder.stages.2"}),
    ],
)
def test_mixers_stand_where_the_name_says_and_nowhere_in_the_twin(word, expected):
    trainer_class = getattr(trainers, f"nnUNetTrainerMMUNet_{word}")
    assert parts_with_ssm(trainer_class) == expected
    (row,) = (row for row in TRAINERS if row.name == trainer_class.__name__)
    assert parts_with_ssm(getattr(trainers, row.twin_name())) == set()


def test_scan_orders_share_one_twin():
    """Without a mixer there is no order: the twin is MM-UNet's, and there is no other."""
    assert {row.twin_name() for row in TRAINERS if row.name.endswith(tuple(ROWS))} == {
        "nnUNetTrainerMMUNetNoSSM"
    }
    assert not any(hasattr(trainers, f"nnUNetTrainerMMUNet_{row}NoSSM") for row in ROWS)


# every trainer


VSS = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
SINGLE = {  # sizes to try them at
    "nnUNetTrainerVMUNetPaper": VSS,
    "nnUNetTrainerMambaUNetPaper": VSS,
    "nnUNetTrainerLightMUNetPaper": {"features_per_stage": [8, 8, 16, 16], "depths": 1},
    "nnUNetTrainerSegMambaV2Paper": {"features_per_stage": [8, 8, 8, 16], "depths": 1},
    "nnUNetTrainerNnMambaPaper": {"features_per_stage": [16] * 4, "depths": [1, 2, 2]},
    "nnUNetTrainerSegMamba": {"features_per_stage": [4, 4, 8, 8], "depths": [1, 1, 1, 2]},
}


def test_every_name_of_the_family_has_a_trainer_and_every_trainer_a_source():
    full = [t for t in map(trainers.__dict__.get, trainers.__all__) if issubclass(t, MambaTrainer)]
    assert {t.network_name for t in full} >= set(FAMILY) - {"nnunet"}
    assert [t.__name__ for t in full if not re.search("arXiv:|doi:", t.__doc__ or "")] == []


@pytest.mark.parametrize("name", ["UMambaEnc", "MambaUni", "MambaBi", "MambaMulti"])
def test_plan_sized_trainers_take_a_step(initialised, make_batch, name):
    trainer = initialised(getattr(trainers, f"nnUNetTrainer{name}_5epochs"))
    assert torch.isfinite(torch.as_tensor(trainer.train_step(make_batch(trainer))["loss"]))


@pytest.mark.parametrize("name", SINGLE)
def test_networks_of_one_output_train_without_deep_supervision(
    initialised, make_plans, make_single_batch, name
):
    trainer_class = getattr(trainers, name)
    ndim = max(FAMILY[trainer_class.network_name].ndims)
    recipe = recipes.replace(trainer_class.recipe, batch_size=1)
    small = type(name, (trainer_class,), {"recipe": recipe, "overrides": SINGLE[name]})
    plans = make_plans(patch=(40, 33, 24)[:ndim])
    trainer = initialised(small, plans, "2d" if ndim == 2 else "3d_fullres")
    assert not trainer.enable_deep_supervision and trainer._get_deep_supervision_scales() is None
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.train_step(make_single_batch(trainer))
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(make_single_batch(trainer))


@pytest.mark.parametrize(
    ("name", "strides", "n_held"),
    [
        ("SwinUMambaPaper", (1, 2, 4, 8), 22_136_736 - 18_720),  # the authors' encoder - patch embedding
        ("SwinUMambaDPaper", (1, 4, 8, 16), 22_119_840 - 1_824),
    ],
)
def test_swin_umamba_supervises_its_own_scales_and_holds_its_encoder(
    initialised, make_plans, make_batch, name, strides, n_held
):
    trainer = initialised(getattr(trainers, f"nnUNetTrainer{name}"), make_plans(patch=(40, 33)), "2d")
    assert trainer._get_deep_supervision_scales() == [[1 / s, 1 / s] for s in strides]
    for block in trainer.network.modules():
        if isinstance(block, DropPath):
            block.rate = 0.0  # a block that is left out for a step has no gradient either
    before = {n: p.clone() for n, p in trainer.network.named_parameters()}
    trainer.train_step(make_batch(trainer))
    after = dict(trainer.network.named_parameters())
    held = [n for n in before if torch.equal(before[n], after[n])]
    assert sum(before[n].numel() for n in held) == n_held
    assert all(n.startswith("encoder.") for n in held)


OF_ONE_DIMENSION = [trainer for trainer in FIXED if len(FAMILY[trainer.network_name].ndims) == 1]


@pytest.mark.parametrize("trainer_class", OF_ONE_DIMENSION, ids=lambda t: t.network_name)
def test_a_configuration_of_the_wrong_dimension_is_an_error_that_names_the_right_one(
    make_trainer, trainer_class
):
    (ndim,) = FAMILY[trainer_class.network_name].ndims
    trainer = make_trainer(trainer_class, configuration="3d_fullres" if ndim == 2 else "2d")
    right = "2d" if ndim == 2 else "3d_fullres"
    with pytest.raises(ValueError, match=f"works in {ndim}D.* configuration {right}"):
        trainer.initialize()
