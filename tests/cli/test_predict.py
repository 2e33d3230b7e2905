"""nnunet-mamba predict checks its arguments before it imports anything heavy."""

import subprocess
import sys

import pytest

from nnunet_mamba.cli import _parsers, main
from nnunet_mamba.cli.predict import check_request

OURS = "nnUNetTrainerMMUNet__nnUNetPlans__3d_fullres"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Options of a prediction that would go well: folds 0 and 1 of ours, half a fold of nnU-Net's own."""
    dataset = tmp_path / "results" / "Dataset004_Hippocampus"
    for fold, name in (("0", "final"), ("1", "final"), ("0", "best"), ("2", "latest")):
        file = dataset / OURS / f"fold_{fold}" / f"checkpoint_{name}.pth"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    best = dataset / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0" / "checkpoint_best.pth"
    best.parent.mkdir(parents=True)
    best.touch()
    for folder in dataset.iterdir():
        (folder / "plans.json").touch()
        (folder / "dataset.json").touch()
    (tmp_path / "images").mkdir()
    for variable in ("nnUNet_results", "nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / "results"))
    options = {"-i": str(tmp_path / "images"), "-o": "out", "-d": "4", "-c": "3d_fullres"}
    return {**options, "-tr": "nnUNetTrainerMMUNet", "-f": "0"}


def words(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (name, *value.split())]


def check(*words):
    """Return the folder of the model that is asked for."""
    return check_request(_parsers("predict")[0].parse_args(["predict", *words]))


def test_what_is_there_is_not_complained_about(trained, tmp_path):
    folder = tmp_path / "results" / "Dataset004_Hippocampus" / OURS
    assert check(*words(trained)) == folder
    assert (
        check(*words({**trained, "-f": "0 1"}), "--disable_tta", "-npp", "0", "-step_size", "0.7") == folder
    )
    assert check(*words({**trained, "-device": "cpu", "-num_parts": "2", "-part_id": "1"})) == folder
    best = {"-d": "Dataset004_Hippocampus", "-c": "2d", "-tr": "nnUNetTrainer", "-chk": "checkpoint_best.pth"}
    assert check(*words({**trained, **best})) == folder.with_name("nnUNetTrainer__nnUNetPlans__2d")
    by_folder = {"-i": trained["-i"], "-o": "out", "-f": "0 1", "-m": str(folder)}
    assert check(*words(by_folder)) == folder


OF_OURS = [
    "  -tr nnUNetTrainerMMUNet -p nnUNetPlans -c 3d_fullres -f 0 1",
    "  -tr nnUNetTrainerMMUNet -p nnUNetPlans -c 3d_fullres -f 2 -chk checkpoint_latest.pth",
]
OF_ANOTHER = ["  -tr nnUNetTrainer -p nnUNetPlans -c 2d -f 0 -chk checkpoint_best.pth"]


@pytest.mark.parametrize(
    ("changes", "said", "lines"),
    [
        (
            {"-tr": "nnUNetTrainerMMUnet"},
            "nnUNetTrainerMMUnet__nnUNetPlans__3d_fullres does not exist",
            OF_OURS + OF_ANOTHER,
        ),
        ({"-c": "3d_lowres"}, f"{OURS[:-10]}3d_lowres does not exist", OF_OURS + OF_ANOTHER),
        ({"-tr": "nnUNetTrainer"}, "nnUNetTrainer__nnUNetPlans__3d_fullres does not exist", None),
        ({"-f": "0 2"}, f"{OURS} has no checkpoint_final.pth of fold 2.", OF_OURS),
        ({"-f": "0 1 2 3 4"}, f"{OURS} has no checkpoint_final.pth of fold 2, 3, 4.", OF_OURS),
        ({"-chk": "final.pth"}, f"{OURS} has no final.pth of fold 0.", OF_OURS),
    ],
)
def test_what_was_trained_is_told_as_options(trained, capsys, changes, said, lines):
    assert main(["predict", *words({**trained, **changes})]) == 2
    first, *printed = capsys.readouterr().err.splitlines()
    assert said in first and first.endswith((" Trained there are:", " There are:"))
    assert printed == lines if lines else sorted(printed) == sorted(OF_OURS + OF_ANOTHER)


def test_of_many_the_most_alike_come_first_and_the_rest_is_counted(trained, tmp_path, capsys):
    for n in range(20):
        file = f"nnUNetTrainerOther{n}__nnUNetPlans__2d/fold_0/checkpoint_final.pth"
        (tmp_path / "results" / "Dataset004_Hippocampus" / file).parent.mkdir(parents=True)
        (tmp_path / "results" / "Dataset004_Hippocampus" / file).touch()
    assert main(["predict", *words({**trained, "-tr": "nnUNetTrainerMMUnet"})]) == 2
    _, *printed = capsys.readouterr().err.splitlines()
    assert printed[:2] == OF_OURS and len(printed) == 9 and printed[-1] == "  and 15 more"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"-d": "5"}, "Expected one dataset Dataset005_*"),
        ({"-d": "Dataset004_Hipocampus"}, "Did you mean Dataset004_Hippocampus?"),
        ({"-i": "nowhere"}, "nowhere, for -i, is not a folder"),
        ({"-m": "."}, "-m names the model by its folder; leave -d and -c out"),
        ({"-m": "nowhere"}, "nowhere, for -m, does not exist"),
        ({"-prev_stage_predictions": "nowhere"}, "nowhere, for -prev_stage_predictions, is not a folder"),
    ],
)
def test_what_is_not_there_is_named(trained, capsys, changes, said):
    assert main(["predict", *words({**trained, **changes})]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"-num_parts": "2", "-part_id": "2"}, "-part_id is 2; expected 0 to 1, below -num_parts"),
        ({"-part_id": "-1"}, "-part_id is -1; expected 0 to 0"),
        ({"-num_parts": "0"}, "-part_id is 0; expected"),
        ({"-step_size": "0"}, "-step_size is 0.0; expected more than 0 and at most 1"),
        ({"-step_size": "1.1"}, "-step_size is 1.1; expected more than 0 and at most 1"),
        ({"-step_size": "nan"}, "-step_size is nan; expected"),
    ],
)
def test_numbers_out_of_range_are_refused(trained, capsys, changes, said):
    assert main(["predict", *words({**trained, **changes})]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("names", [["plans.json"], ["dataset.json"], ["plans.json", "dataset.json"]])
def test_a_model_folder_without_its_plans_is_refused(trained, tmp_path, capsys, names):
    folder = tmp_path / "results" / "Dataset004_Hippocampus" / OURS
    for name in names:
        (folder / name).unlink()
    for options in (trained, {"-i": trained["-i"], "-o": "out", "-f": "0", "-m": str(folder)}):
        assert main(["predict", *words(options)]) == 2
        said = capsys.readouterr().err
        assert f"{folder} lacks {' and '.join(names)}, which nnU-Net wrote there" in said


@pytest.mark.parametrize("verb", ["predict", "networks"])
def test_options_that_a_verb_does_not_know_are_refused(capsys, verb):
    with pytest.raises(SystemExit, match="2"):
        main([verb, "--disable_ttta"])
    assert "unrecognized arguments: --disable_ttta" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-device", "tpu"], ["--threads", "many"], ["--disable_t"]])
def test_values_and_abbreviations_that_mean_nothing_are_refused(trained, words):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "-i", trained["-i"], "-o", "out", *words])


def test_options_that_are_missing_are_named(trained, capsys):
    del trained["-c"], trained["-o"]
    assert main(["predict", *words(trained)]) == 2
    assert "-o, -c missing" in capsys.readouterr().err


def test_help_shows_its_own_options_and_nnunets_without_loading_it():
    code = "import sys; from nnunet_mamba.cli import main\ntry: main(['predict', '--help'])\n"
    command = [sys.executable, "-c", code + "except SystemExit: sys.exit('torch' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--batch-size", "-step_size", "--save_probabilities"))
