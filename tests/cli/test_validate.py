"""`nnunet-mamba validate`: the training's own labels without conditions, others under each, and no mix."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from one_process import without_processes
from tiny_files import read_volume
from tiny_models import tiny_plans
from tiny_validation import write_preprocessed, write_truth

from nnunet_mamba.cli import main
from nnunet_mamba.nnunet.paths import parse_method
from nnunet_mamba.study.evaluation.results import find_runs
from nnunet_mamba.trainers import nnUNetTrainerControl, nnUNetTrainerMMUNet, nnUNetTrainerMMUNetNoSSM

DATASET = "Dataset999_Tiny"
SPLITS = [{"train": ["case_2"], "val": ["case_0", "case_1"]}, {"train": ["case_0"], "val": ["case_2"]}]
QUICK = ("--disable_tta", "-step_size", "1")

pytestmark = pytest.mark.usefixtures("unregistered")


@pytest.fixture(autouse=True)
def settings_as_before(monkeypatch):
    """Trainers and the command set the threads of the process, the command where nnU-Net finds trainers."""
    monkeypatch.setenv("nnUNet_extTrainer", "")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model(make_trainer, monkeypatch):
    """A function: validate and save a fold of a trainer with random weights; the folder of the model."""

    def make(trainer_class=nnUNetTrainerMMUNet, *, validates: bool = True) -> Path:
        plans = tiny_plans(patch=(8, 8, 8))
        torch.manual_seed(0)
        trainer = make_trainer(trainer_class, plans, "c")
        data = Path(trainer.preprocessed_dataset_folder)
        (data / "case.b2nd").unlink(missing_ok=True)
        write_preprocessed(data, (1.0, 1.0, 1.0))
        write_truth(data.parent / "gt_segmentations")
        (data.parent / "splits_final.json").write_text(json.dumps(SPLITS))
        trainer.initialize()
        with torch.no_grad():
            for parameter in trainer.network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        trainer.inference_allowed_mirroring_axes = (0, 1, 2)
        if validates:
            trainer.perform_actual_validation()
        trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
        model = Path(trainer.output_folder_base)
        (model / "plans.json").write_text(json.dumps(plans))
        (model / "dataset.json").write_text(json.dumps(trainer.dataset_json))
        return model

    without_processes(monkeypatch)
    return make


def command(name: str, *more: str, trainer: str = "nnUNetTrainerMMUNet", fold: str = "0") -> list[str]:
    model = ("-d", DATASET, "-c", "c", "-tr", trainer, "-f", fold, "--name", name)
    return ["validate", *model, "-device", "cpu", "--threads", "1", "--disable_progress_bar", *more]


def read_labels(model: Path, name: str = "", fold: str = "0") -> dict[str, np.ndarray]:
    method = parse_method(model.name)
    folder = model.with_name(str(method.under(name))) if name else model
    files = sorted((folder / f"fold_{fold}" / "validation").glob("*.nii.gz"))
    return {file.name: read_volume(file) for file in files}


def test_without_conditions_labels_are_the_trainings_own(make_model, capsys):
    model = make_model()
    assert main(command("same", "--batch-size", "1")) == 0
    ours, own = read_labels(model, "same"), read_labels(model)
    assert ours.keys() == own.keys() == {"case_0.nii.gz", "case_1.nii.gz"}
    for case, labels in own.items():
        assert len(np.unique(labels)) > 1 and (ours[case] == labels).all()
    images = [
        sitk.ReadImage(folder / "fold_0" / "validation" / "case_0.nii.gz")
        for folder in (model, model.with_name("nnUNetTrainerMMUNet@same__nnUNetPlans__c"))
    ]
    assert images[0].GetSpacing() == images[1].GetSpacing()
    assert "case_1 (2/2): read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["-step_size", "1"],
        ["-step_size", "1", "--without-mixer"],
        ["-step_size", "1", "--noise", "0.5"],
        ["-step_size", "1", "--gamma", "2"],
        ["-step_size", "1", "--brightness", "1"],
        [],
    ],
    ids=" ".join,
)
def test_each_condition_gives_other_labels_and_the_same_each_time(make_model, options):
    """Than the same without its last option, and without mirrored copies."""
    model = make_model(validates=False)
    for name, more in {"a": options, "b": options, "without": options[:2] if options[2:] else []}.items():
        flips = ["--disable_tta"] * (name != "without" or bool(options))
        assert main(command(name, *flips, *more)) == 0
    found = [read_labels(model, name) for name in ("a", "b", "without")]
    assert len(found[0]) == 2
    for case, labels in found[0].items():
        assert (labels == found[1][case]).all() and (labels != found[2][case]).any()


def test_without_its_mixers_a_network_predicts_as_its_twin_with_its_weights(make_model):
    model, twin = make_model(validates=False), make_model(nnUNetTrainerMMUNetNoSSM, validates=False)
    files = [folder / "fold_0" / "checkpoint_final.pth" for folder in (model, twin)]
    weights, checkpoint = (torch.load(file, weights_only=False) for file in files)
    shared = {key: weights["network_weights"][key] for key in checkpoint["network_weights"]}
    torch.save({**checkpoint, "network_weights": shared}, files[1])
    assert main(command("nomixer", "--without-mixer", *QUICK)) == 0
    assert main(command("same", *QUICK, trainer="nnUNetTrainerMMUNetNoSSM")) == 0
    ours, expected = read_labels(model, "nomixer"), read_labels(twin, "same")
    assert len(expected) == 2 and all((ours[case] == labels).all() for case, labels in expected.items())


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        (nnUNetTrainerControl, "PlainConvUNet is not a network of this package"),
        (nnUNetTrainerMMUNetNoSSM, "mm_unet_nossm has no mixer to switch off"),
    ],
)
def test_a_network_without_mixers_has_none_to_switch_off(make_model, capsys, trainer, said):
    make_model(trainer, validates=False)
    assert main(command("nomixer", "--without-mixer", trainer=trainer.__name__)) == 2
    assert said in capsys.readouterr().err


def fold_of(model: Path, name: str, fold: str = "0") -> Path:
    return model.with_name(str(parse_method(model.name).under(name))) / f"fold_{fold}"


def test_the_folder_is_that_of_a_method_and_says_how_it_was_made(make_model, nnunet_folders):
    model = make_model(validates=False)
    assert main(command("quick", *QUICK, "--noise", "0.1")) == 0
    fold = fold_of(model, "quick")
    record = json.loads((fold / "conditions.json").read_text())
    assert record["model"] == model.name and record["checkpoint"] == "checkpoint_final.pth"
    assert record["conditions"] == {
        **{"without_mixer": False, "mirroring": False, "step_size": 1.0},
        **{"gamma": 1.0, "brightness": 0.0, "noise": 0.1},
    }
    assert record["versions"].keys() == {"nnunet_mamba", "nnunetv2", "torch"}
    runs, missing = find_runs(fold.parent, None, nnunet_folders.preprocessed, folds=["0"])
    assert [run.origin.trainer for run in runs] == ["nnUNetTrainerMMUNet@quick"] and not missing
    assert runs[0].match_cases().predictions.keys() == {"case_0", "case_1"}


def test_continuing_leaves_finished_cases_and_beginning_anew_leaves_none(make_model, capsys):
    model = make_model(validates=False)
    assert main(command("quick", *QUICK)) == 0
    one, two = sorted(fold_of(model, "quick").glob("validation/*.nii.gz"))
    first = two.read_bytes()
    one.write_text("kept")
    two.unlink()
    assert main(command("quick", *QUICK, "--c")) == 0
    assert one.read_text() == "kept" and two.read_bytes() == first
    assert "1 of 2 cases are finished and skipped" in capsys.readouterr().out
    one.with_name("case_9.nii.gz").write_text("of another split")
    assert main(command("quick", *QUICK)) == 0
    assert sorted(one.parent.iterdir()) == [one, two] and one.read_bytes()[:2] == b"\x1f\x8b"


def test_label_maps_of_a_network_that_was_trained_again_are_not_kept(make_model, capsys):
    model = make_model(validates=False)
    assert main(command("quick", *QUICK)) == 0
    before = read_labels(model, "quick")
    file = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    for values in checkpoint["network_weights"].values():
        values.neg_()
    torch.save(checkpoint, file)
    (fold_of(model, "quick") / "validation" / "case_0.nii.gz").unlink()
    assert main(command("quick", *QUICK, "--c")) == 0
    assert "is not known to be made with these weights; all its cases" in capsys.readouterr().out
    after = read_labels(model, "quick")
    assert before.keys() == after.keys() and all((after[case] != before[case]).any() for case in before)


def test_each_fold_has_its_own_cases_and_weights_and_fold_all_has_all_cases(make_model):
    model = make_model(validates=False)
    for fold in ("1", "all"):
        shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    file = model / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.weight"].neg_()
    torch.save(checkpoint, file)
    assert main([*command("quick", *QUICK), "-f", "0", "1", "all"]) == 0
    cases = {fold: set(read_labels(model, "quick", fold)) for fold in ("0", "1", "all")}
    assert cases["0"] == {"case_0.nii.gz", "case_1.nii.gz"} and cases["1"] == {"case_2.nii.gz"}
    assert cases["all"] == cases["0"] | cases["1"]
    records = {
        fold: json.loads((fold_of(model, "quick", fold) / "conditions.json").read_text()) for fold in cases
    }
    assert records["0"] == records["all"] and records["1"].pop("weights") != records["0"].pop("weights")
    assert records["1"] == records["0"]


def test_other_conditions_do_not_mix_under_one_name(make_model, capsys):
    model = make_model(validates=False)
    assert main(command("quick", *QUICK)) == 0
    before = read_labels(model, "quick")
    for fold in ("0", "1"):
        (model / "fold_1").mkdir(exist_ok=True)
        (model / "fold_1" / "checkpoint_final.pth").write_bytes(
            (model / "fold_0" / "checkpoint_final.pth").read_bytes()
        )
        assert main(command("quick", *QUICK, "--noise", "0.1", fold=fold)) == 2
        said = capsys.readouterr().err
        assert "fold_0 was made under {'model'" in said and "'noise': 0.1" in said
    assert main(command("quick", *QUICK, "--noise", "0.1", "--mixed")) == 2  # its own folder
    assert read_labels(model, "quick").keys() == before.keys() and not read_labels(model, "quick", "1")
    assert main(command("quick", *QUICK, "--noise", "0.1", "--mixed", fold="1")) == 0
    assert read_labels(model, "quick", "1").keys() == {"case_2.nii.gz"}
    (fold_of(model, "quick") / "conditions.json").write_text("[]")
    assert main(command("quick", *QUICK)) == 2
    (fold_of(model, "quick") / "conditions.json").unlink()
    assert main(command("quick", *QUICK)) == 2
    assert "fold_0 was made under unknown conditions (no conditions.json)" in capsys.readouterr().err


def remove_checkpoint(model: Path) -> None:
    (model / "fold_0" / "checkpoint_final.pth").unlink()


def remove_splits(model: Path) -> None:
    (Path(model).parents[2] / "preprocessed" / DATASET / "splits_final.json").unlink()


def remove_case(model: Path) -> None:
    (file,) = (model.parents[2] / "preprocessed" / DATASET).rglob("case_1.b2nd")
    file.unlink()


def empty_fold(model: Path) -> None:
    file = model.parents[2] / "preprocessed" / DATASET / "splits_final.json"
    file.write_text(json.dumps([{"train": ["case_0"], "val": []}]))


def remove_data(model: Path) -> None:
    (file,) = (model.parents[2] / "preprocessed" / DATASET).rglob("case_1.b2nd")
    file.parent.rename(file.parent.with_name("elsewhere"))


def nothing(model: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "options", "said"),
    [
        (remove_checkpoint, [], "has no checkpoint_final.pth of fold 0"),
        (remove_splits, [], "splits_final.json does not exist; expected the split of the trainings"),
        (remove_case, [], "1 cases of the split are not in"),
        (empty_fold, [], "There are no validation cases for fold_0"),
        (remove_data, [], "does not exist; validation cases are read from there"),
        (nothing, ["-f", "7"], "has no checkpoint_final.pth of fold 7"),
        (nothing, ["--name", "a__b"], "--name is 'a__b'; expected letters"),
        (nothing, ["-tr", "nnUNetTrainerMMUNet@x"], "is no trainer, but nnUNetTrainerMMUNet as"),
        (nothing, ["--noise", "-1"], "noise is -1.0; expected a number of at least 0"),
        (nothing, ["--gamma", "nan"], "gamma is nan; expected a number above 0"),
        (nothing, ["-step_size", "0"], "step_size is 0.0; expected more than 0"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_written(make_model, capsys, damage, options, said):
    model = make_model(validates=False)
    damage(model)
    assert main([*command("new"), *options]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_predict_takes_no_such_folder_for_a_model(make_model, tmp_path, capsys):
    make_model(validates=False)
    assert main(command("quick", *QUICK)) == 0
    where = ["-i", str(tmp_path), "-o", str(tmp_path / "out"), "-d", DATASET, "-c", "c", "-device", "cpu"]
    assert main(["predict", *where, "-tr", "nnUNetTrainerMMUNet@quick"]) == 2
    assert "Give -tr nnUNetTrainerMMUNet, with those as options" in capsys.readouterr().err
    assert main(["predict", *where, "-tr", "nnUNetTrainerOther"]) == 2
    said = capsys.readouterr().err
    assert "-tr nnUNetTrainerMMUNet -p nnUNetPlans" in said and "@" not in said


def test_a_missing_option_is_named_as_it_is_typed(capsys):
    assert main(["validate", "-d", "4"]) == 2
    assert "-c, --name missing; `nnunet-mamba validate --help`" in capsys.readouterr().err
