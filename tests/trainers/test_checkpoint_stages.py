"""checkpoint_stages of a trainer: its attribute, and the variable that comes first."""

import pytest

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.trainers.baselines import nnUNetTrainerSegResNet
from nnunet_mamba.trainers.checkpoint_stages import CHECKPOINT_STAGES
from nnunet_mamba.trainers.family import nnUNetTrainerMMUNet


class OneStage(nnUNetTrainerMMUNet):
    checkpoint_stages = 1


def recomputed(trainer):
    trainer.initialize()
    return {
        module.n_checkpointed
        for module in trainer.network.modules()
        if isinstance(module, CheckpointedStages)
    }


@pytest.mark.parametrize(
    ("trainer_class", "variable", "expected"),
    [
        (nnUNetTrainerMMUNet, None, {0}),
        (OneStage, None, {1}),
        (OneStage, "all", {3}),
        (OneStage, "0", {0}),
        (nnUNetTrainerMMUNet, "2", {2}),
    ],
)
def test_the_variable_comes_before_the_attribute(
    make_trainer, monkeypatch, trainer_class, variable, expected
):
    if variable is not None:
        monkeypatch.setenv(CHECKPOINT_STAGES, variable)
    assert recomputed(make_trainer(trainer_class)) == expected


@pytest.mark.parametrize(("variable", "complaint"), [("some", 'expected "all" or a number'), ("7", "got 7")])
def test_a_bad_value_ends_the_run_before_training(make_trainer, monkeypatch, variable, complaint):
    monkeypatch.setenv(CHECKPOINT_STAGES, variable)
    with pytest.raises(ValueError, match=complaint):
        make_trainer(nnUNetTrainerMMUNet).initialize()


def test_networks_of_others_refuse(make_trainer, monkeypatch):
    monkeypatch.setenv(CHECKPOINT_STAGES, "1")
    with pytest.raises(ValueError, match=r"cannot be recomputed from here\. Unset the variable"):
        make_trainer(nnUNetTrainerSegResNet).initialize()


@pytest.mark.parametrize("variable", ["7", "some", "1"])
@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMMUNet, nnUNetTrainerSegResNet])
def test_a_prediction_heeds_no_variable(make_trainer, monkeypatch, trainer_class, variable):
    """As nnU-Net's predictor builds the network: by the class alone."""
    monkeypatch.setenv(CHECKPOINT_STAGES, variable)
    trainer = make_trainer(trainer_class)
    network = trainer_class.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=False
    )
    assert not any(
        module.n_checkpointed for module in network.modules() if isinstance(module, CheckpointedStages)
    )
