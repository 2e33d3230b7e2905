"""mixer_precision of a trainer: its attribute, and the variable that comes first; in prediction, too."""

import pytest

from nnunet_mamba.ops.precision import SequenceMixer
from nnunet_mamba.trainers.family import nnUNetTrainerMMUNet
from nnunet_mamba.trainers.mixer_precision import MIXER_PRECISION


class Mixed(nnUNetTrainerMMUNet):
    mixer_precision = "mixed"


def precisions(network):
    return {module.mixer_precision for module in network.modules() if isinstance(module, SequenceMixer)}


@pytest.mark.parametrize(
    ("trainer_class", "variable", "expected"),
    [
        (nnUNetTrainerMMUNet, None, "float32"),
        (Mixed, None, "mixed"),
        (Mixed, "float32", "float32"),
        (nnUNetTrainerMMUNet, "mixed", "mixed"),
    ],
)
def test_the_variable_comes_before_the_attribute(
    make_trainer, monkeypatch, trainer_class, variable, expected
):
    if variable is not None:
        monkeypatch.setenv(MIXER_PRECISION, variable)
    trainer = make_trainer(trainer_class)
    trainer.initialize()
    assert precisions(trainer.network) == {expected}
    managers = (trainer.plans_manager, trainer.configuration_manager)
    assert precisions(trainer_class.build_network_architecture(*managers, 1, 2, False)) == {expected}


def test_a_bad_word_ends_the_run_before_training(make_trainer, monkeypatch):
    monkeypatch.setenv(MIXER_PRECISION, "half")
    with pytest.raises(ValueError, match=r"MIXER_PRECISION is 'half'; expected one of float32, mixed\."):
        make_trainer(nnUNetTrainerMMUNet).initialize()
