"""The environment's wishes: checkpoints, threads, seeds."""

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from one_process import without_processes

from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet, nnUNetTrainerMMUNet_demo
from nnunet_mamba.trainers.switches import SAVE_EVERY, SEED, THREADS, Switches, asked_switches


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_unset_or_empty_variables_ask_for_nothing(monkeypatch):
    for variable in (SAVE_EVERY, THREADS):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(SEED, " ")
    assert asked_switches() == Switches(None, None, None)


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
    monkeypatch.setattr(
        "nnunet_mamba.trainers.guarded_trainer.default_threads", lambda *, steady: 6 if steady else 5
    )
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
