"""Loading of trained folders: what is refused before anything is predicted."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_dataset, tiny_plans, write_model

from nnunet_mamba.inference.model import check_plans, check_stage, load_model, write_settings

OPTIONS = {"perform_everything_on_device": True, "allow_tqdm": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "nnUNetTrainer__nnUNetPlans__c", folds=(0, 1))


@pytest.fixture
def change(model):
    """A function: change an entry of the folder's plans, by its path; undone after the test."""
    before = (model / "plans.json").read_text()

    def make(path, value):
        plans = json.loads(before)
        *parents, last = path.split(".")
        place = plans
        for key in parents:
            place = place[key]
        assert last not in place or place[last] != value
        place[last] = value
        (model / "plans.json").write_text(json.dumps(plans))

    yield make
    (model / "plans.json").write_text(before)


def check(model, fold=0):
    check_plans(model / "plans.json", model / f"fold_{fold}" / "checkpoint_final.pth")


def test_the_plans_of_the_training_pass(model):
    check(model)


OTHER = {"mean": 0.2, "std": 0.9, "percentile_00_5": -1.5, "percentile_99_5": 1.5}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("configurations.c.spacing", [1.0, 1.0, 1.1], "c: spacing"),
        ("configurations.c.normalization_schemes", ["CTNormalization"], "c: normalization_schemes"),
        ("configurations.c.use_mask_for_norm", [True], "c: use_mask_for_norm"),
        ("configurations.c.architecture.arch_kwargs.n_stages", 3, "c: architecture"),
        ("transpose_forward", [1, 0, 2], "transpose_forward"),
        ("foreground_intensity_properties_per_channel", {"0": OTHER}, "foreground_intensity_properties"),
    ],
)
def test_plans_that_show_the_network_other_images_are_refused_by_name(model, change, path, value, said):
    change(path, value)
    with pytest.raises(ValueError, match=rf"plans.json is not what .*trained with: .*{said}.* differ"):
        check(model, fold=1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configurations.c.patch_size", [16, 16, 16]),
        ("configurations.c.batch_size", 9),
        ("configurations.c.resampling_fn_probabilities", "resample_torch_fornnunet"),
        ("configurations.d", {"inherits_from": "c", "spacing": [2.0, 2.0, 2.0]}),
        ("plans_name", "renamed"),
    ],
)
def test_plans_that_change_nothing_of_what_it_sees_pass(model, change, path, value):
    change(path, value)
    check(model)


def test_what_a_configuration_inherits_counts(tmp_path):
    plans = tiny_plans()
    plans["configurations"]["base"] = plans["configurations"]["c"]
    plans["configurations"]["c"] = {"inherits_from": "base", "patch_size": [8, 8, 8]}
    model = write_model(tmp_path / "model", plans)
    check(model)
    plans["configurations"]["base"]["spacing"] = [2.0, 1.0, 1.0]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="c: spacing differ"):
        check(model)


@pytest.mark.parametrize("known", [{}, {"init_args": {"configuration": "c"}}, {"init_args": {"plans": None}}])
@pytest.mark.parametrize("of_old_pytorch", [False, True])
def test_a_checkpoint_that_does_not_tell_its_plans_passes(tmp_path, known, of_old_pytorch):
    (tmp_path / "plans.json").write_text(json.dumps(tiny_plans()))
    torch.save(known, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=not of_old_pytorch)
    check_plans(tmp_path / "plans.json", tmp_path / "checkpoint.pth")


def test_the_folds_asked_for_are_loaded(model):
    predictor = load_model(model, ["1", "0"], "checkpoint_final.pth", "cpu", **OPTIONS)
    assert len(predictor.list_of_parameters) == 2
    for fold, parameters in zip((1, 0), predictor.list_of_parameters, strict=True):
        stored = torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)
        assert all(torch.equal(parameters[key], value) for key, value in stored["network_weights"].items())
    assert predictor.device == torch.device("cpu")
    assert not predictor.perform_everything_on_device


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("configurations.c.spacing", [3.0, 1.0, 1.0], "c: spacing differ"),
        ("configurations.c.architecture.arch_kwargs.n_stages", 3, "c: architecture differ"),
        ("configurations", {"d": {}}, "plans.json lacks the configuration c"),
    ],
)
def test_other_plans_are_refused_where_a_model_is_loaded(model, change, path, value, said):
    """Before a network that they describe refuses the weights."""
    change(path, value)
    with pytest.raises(ValueError, match=said):
        load_model(model, ["0"], "checkpoint_final.pth", "cpu", **OPTIONS)


def test_a_dataset_json_that_lacks_what_is_read_is_refused_where_a_model_is_loaded(tmp_path):
    dataset = {key: value for key, value in tiny_dataset().items() if key != "file_ending"}
    folder = write_model(tmp_path / "model", dataset=dataset)
    with pytest.raises(ValueError, match=r"dataset\.json .*lacks file_ending"):
        load_model(folder, ["0"], "checkpoint_final.pth", "cpu", **OPTIONS)


def of_unknown_trainer(file):
    content = torch.load(file, weights_only=False)
    torch.save({**content, "trainer_name": "nnUNetTrainerUnknown"}, file)


def of_another_network(file):
    content = torch.load(file, weights_only=False)
    content["network_weights"].popitem()
    torch.save(content, file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (of_unknown_trainer, "Could not find requested nnunet trainer nnUNetTrainerUnknown"),
        (of_another_network, r"Missing key\(s\) in state_dict"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_is_refused(tmp_path, damage, said):
    model = write_model(tmp_path / "model")
    damage(model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ValueError, match=f"model cannot be loaded: (.|\n)*{said}"):
        load_model(model, ["0"], "checkpoint_final.pth", "cpu", **OPTIONS)


@pytest.mark.parametrize("n_bytes", [0, 100, 5000])
@pytest.mark.parametrize("of_old_pytorch", [False, True])
def test_a_damaged_checkpoint_is_named(tmp_path, n_bytes, of_old_pytorch):
    file = write_model(tmp_path / "model") / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save(content, file, _use_new_zipfile_serialization=not of_old_pytorch)
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth is damaged"):
        load_model(tmp_path / "model", ["0"], file.name, "cpu", **OPTIONS)


@pytest.mark.parametrize(("device", "module"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_refused(model, monkeypatch, device, module):
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"finds no (CUDA|Metal) device here; -device cpu"):
        load_model(model, ["0"], "checkpoint_final.pth", device, **OPTIONS)


def test_a_cascade_needs_its_previous_stage_and_others_have_none(tmp_path):
    def predictor(previous):
        return SimpleNamespace(configuration_manager=SimpleNamespace(previous_stage_name=previous))

    check_stage(predictor("3d_lowres"), tmp_path)
    check_stage(predictor(None), None)
    with pytest.raises(ValueError, match=r"second stage of a cascade: predict with 3d_lowres first"):
        check_stage(predictor("3d_lowres"), None)
    with pytest.raises(ValueError, match=r"no previous stage; leave -prev_stage_predictions out"):
        check_stage(predictor(None), tmp_path)


def test_the_files_that_nnunets_ensembling_reads_are_written(model, tmp_path):
    predictor = load_model(model, ["0"], "checkpoint_final.pth", "cpu", **OPTIONS)
    write_settings(tmp_path / "a" / "b", predictor, {"i": tmp_path, "f": ["0"], "run": check})
    found = {file.name: json.loads(file.read_text()) for file in (tmp_path / "a" / "b").iterdir()}
    assert found["dataset.json"] == tiny_dataset() and found["plans.json"] == tiny_plans()
    assert found["predict_from_raw_data_args.json"] == {"i": str(tmp_path), "f": "['0']"} and len(found) == 3


def test_commands_that_share_the_cases_do_not_disturb_each_other(model, tmp_path, monkeypatch):
    """Each writes the settings; one begins in the middle of the other."""
    predictor = load_model(model, ["0"], "checkpoint_final.pth", "cpu", **OPTIONS)
    replace, own = Path.replace, os.getpid()

    def replace_after_another_has_written(draft, file):
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: own + 1)
        write_settings(tmp_path, predictor, {"i": "a"})
        return replace(draft, file)

    monkeypatch.setattr(Path, "replace", replace_after_another_has_written)
    write_settings(tmp_path, predictor, {"i": "a"})
    names = ["dataset.json", "plans.json", "predict_from_raw_data_args.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
