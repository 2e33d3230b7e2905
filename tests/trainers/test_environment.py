"""Environment variables: checkpoints, threads, seeds; stages to recompute and precision of the mixers."""

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from one_process import without_processes

from nnunet_mamba.blocks.checkpointing import CheckpointedStages
from nnunet_mamba.ops.precision import SequenceMixer
from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet, nnUNetTrainerMMUNet_demo
from nnunet_mamba.trainers.baselines import nnUNetTrainerSegResNet
from nnunet_mamba.trainers.environment import (
    CHECKPOINT_STAGES,
    MIXER_PRECISION,
    SAVE_EVERY,
    SEED,
    THREADS,
    EnvironmentSettings,
)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_unset_or_empty_variables_ask_for_nothing(monkeypatch):
    for variable in (SAVE_EVERY, THREADS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(SEED, " ")
    assert EnvironmentSettings.from_environ() == EnvironmentSettings(None, None, None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [(SAVE_EVERY, "0"), (SAVE_EVERY, "often"), (THREADS, "-1"), (THREADS, "1.5"), (SEED, "-3"), (SEED, "²")],
)
def test_nonsense_is_refused_before_anything_is_written(
    make_trainer, nnunet_folders, monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=rf"{variable} is '{value}'; expected a whole number from [01] on: "):
        make_trainer(nnUNetTrainerMMUNet)
    assert not list(nnunet_folders.results.iterdir())


def test_save_every_comes_before_what_a_trainer_sets(make_trainer, monkeypatch):
    assert make_trainer(nnUNetTrainerMMUNet).save_every == 50
    assert make_trainer(nnUNetTrainerMMUNet_demo).save_every == 1
    monkeypatch.setenv(SAVE_EVERY, "3")
    assert make_trainer(nnUNetTrainerMMUNet).save_every == 3
    assert make_trainer(nnUNetTrainerMMUNet_demo).save_every == 3


@pytest.mark.parametrize(
    ("asked", "seed", "expected"), [("", "", 5), ("3", "", 3), ("", "7", 6), ("2", "7", 2)]
)
def test_on_a_cpu_a_trainer_takes_what_fits_unless_it_is_told(
    make_trainer, monkeypatch, threads, asked, seed, expected
):
    """Of a seeded trainer the number must not depend on the load."""
    monkeypatch.setattr("nnunet_mamba.trainers.base.choose_n_threads", lambda *, steady: 6 if steady else 5)
    torch.set_num_threads(7)  # nnUNetv2_train: all processors
    monkeypatch.setenv(THREADS, asked)
    monkeypatch.setenv(SEED, seed)
    make_trainer(nnUNetTrainerMMUNet)
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_number_of_threads_holds_in_training_and_validation(
    make_runnable, monkeypatch, threads, n_threads
):
    """nnU-Net's loaders and resampling set numbers of their own for a while."""
    torch.set_num_threads(7)  # nnUNetv2_train: all processors
    monkeypatch.setenv(THREADS, str(n_threads))
    trainer = make_runnable(nnUNetTrainerControl, settings={"num_epochs": 1})
    seen = []
    trainer.initialize()
    trainer.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    trainer.run_training()

    def predict(self, data):
        with torch.no_grad():
            self.network(data[None, :, 0, :16, :16])
        raise InterruptedError  # enough: no files are needed

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", predict)
    without_processes(monkeypatch)
    with pytest.raises(InterruptedError):
        trainer.perform_actual_validation()
    assert seen == [n_threads] * 4  # two steps, one of validation in the epoch, one case


# checkpoint_stages


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
def test_the_variable_for_stages_comes_before_the_attribute(
    make_trainer, monkeypatch, trainer_class, variable, expected
):
    if variable is not None:
        monkeypatch.setenv(CHECKPOINT_STAGES, variable)
    assert recomputed(make_trainer(trainer_class)) == expected


@pytest.mark.parametrize(("variable", "complaint"), [("some", 'expected "all" or a number'), ("7", "got 7")])
def test_a_bad_number_of_stages_ends_the_run_before_training(make_trainer, monkeypatch, variable, complaint):
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


# mixer_precision


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
def test_the_variable_for_precision_comes_before_the_attribute_in_prediction_too(
    make_trainer, monkeypatch, trainer_class, variable, expected
):
    if variable is not None:
        monkeypatch.setenv(MIXER_PRECISION, variable)
    trainer = make_trainer(trainer_class)
    trainer.initialize()
    assert precisions(trainer.network) == {expected}
    managers = (trainer.plans_manager, trainer.configuration_manager)
    assert precisions(trainer_class.build_network_architecture(*managers, 1, 2, False)) == {expected}


def test_an_unknown_precision_ends_the_run_before_training(make_trainer, monkeypatch):
    monkeypatch.setenv(MIXER_PRECISION, "half")
    with pytest.raises(ValueError, match=r"MIXER_PRECISION is 'half'; expected one of float32, mixed\."):
        make_trainer(nnUNetTrainerMMUNet).initialize()
