"""nnunet-mamba export-model and import-model: the scores of the card, and what is refused."""

import shutil
from dataclasses import replace

import pytest
from tiny_exports import DATASET, MODEL, write_trained

from nnunet_mamba.cli import main
from nnunet_mamba.nnunet.paths import parse_method
from nnunet_mamba.sharing import hub
from nnunet_mamba.study.evaluation import Score, write_table

ROW = Score(
    case="c0",
    label="1",
    label_name="liver",
    metric="dice",
    value=0.5,
    n_voxels=9,
    empty="",
    dataset=DATASET,
    **parse_method(MODEL)._asdict(),
    fold="0",
    protocol="honest",
)


@pytest.fixture
def trained(tmp_path, nnunet_folders):
    return write_trained(nnunet_folders.results).folder


def export(trained, tmp_path, *more, scores=None):
    """Exit code of the command."""
    if scores is not None:
        write_table(scores, tmp_path / "scores.csv")
        more = (*more, "--scores", str(tmp_path / "scores.csv"))
    return main(["export-model", str(trained), str(tmp_path / "export"), *more])


def table_of(tmp_path):
    """The lines of the card about scores."""
    text = (tmp_path / "export" / "README.md").read_text()
    return [line for line in text.split("## Scores\n\n")[1].split("\n\n## Use")[0].splitlines() if line]


def test_scores_of_the_exported_folds_are_on_the_card_and_no_others(trained, tmp_path, capsys):
    """Dice 0.5 and 0.7 of the liver, 0.2 of the tumour: means 0.6 and 0.2, mean of the labels 0.4."""
    own = [
        ROW,
        replace(ROW, case="c1", fold="1", value=0.7),
        replace(ROW, case="c1", fold="1", label="2", label_name="tumour", value=0.2),
        replace(ROW, label="2", label_name="tumour", value=float("nan"), empty="both"),
        replace(ROW, metric="hd95", value=3.0),
    ]
    others = [
        replace(ROW, fold="2", value=0.0),
        replace(ROW, trainer="nnUNetTrainer", value=0.0),
        replace(ROW, trainer=f"{ROW.trainer}@noise10", value=0.0),
        replace(ROW, configuration="2d", value=0.0),
        replace(ROW, dataset="Dataset001_Other", value=0.0),
        replace(ROW, seed="3", value=0.0),
    ]
    assert export(trained, tmp_path, scores=[*own, *others]) == 0
    assert table_of(tmp_path) == [
        "Protocol honest; cross-validation, fold 0, 1; 2 cases.",
        "| label              |                Dice | HD95 (mm) |",
        "| ------------------ | ------------------: | --------: |",
        "| liver              | 0.6000 ± 0.1414 (2) |  3.00 (1) |",
        "| tumour             |          0.2000 (1) |         – |",
        "| mean of the labels |              0.4000 |      3.00 |",
        "Mean ± SD over cases, in brackets the cases where the metric is defined.",
    ]
    output = capsys.readouterr().out
    assert f"{MODEL} of {DATASET}, fold 0 1" in output and "--licence names one" in output


def test_protocols_and_kinds_of_cases_are_apart(trained, tmp_path):
    unnamed = dict.fromkeys(("dataset", "trainer", "plans", "configuration", "fold"), "")
    scores = [
        ROW,
        replace(ROW, protocol="transunet", metric="hd95", value=4.0),
        replace(ROW, fold="test", value=0.25),
        replace(ROW, **unnamed, case="c9"),
    ]
    assert export(trained, tmp_path, scores=scores) == 0
    lines = table_of(tmp_path)
    for part in (
        "Protocol honest; cross-validation, fold 0; 1 case.",
        "Protocol transunet; cross-validation, fold 0; 1 case.",
        "Protocol honest; test cases; 1 case.",
        "Protocol honest; cases whose fold the table does not tell; 1 case.",
        "The table does not name the model scored.",
    ):
        assert part in lines
    assert any("HD95 (voxels)" in line for line in lines)


def test_scores_of_fold_all_are_said_to_be_of_training_cases(trained, tmp_path):
    scores = [replace(ROW, fold="all")]
    assert export(trained, tmp_path, "-chk", "checkpoint_best.pth", scores=scores) == 0
    assert "on the cases that it was trained on" in table_of(tmp_path)[0]


def test_a_training_of_a_sweep_takes_the_scores_of_its_seed(trained, tmp_path):
    seeded = tmp_path / "seed_3" / DATASET / MODEL
    shutil.copytree(trained, seeded)
    scores = [replace(ROW, seed="3", value=0.75), replace(ROW, seed="4", value=0.0)]
    assert export(seeded, tmp_path, scores=scores) == 0
    assert "0.7500 (1)" in "".join(table_of(tmp_path))


@pytest.mark.parametrize(
    ("options", "scores", "said"),
    [
        ((), [replace(ROW, trainer="nnUNetTrainer")], "has no scores of Dataset999_Tiny nnUNetTrainerMMUNet"),
        (("-f", "1"), [ROW], "fold 1; it has Dataset999_Tiny nnUNetTrainerMMUNet_5epochs__"),
        (("-f", "7"), None, "no checkpoint_final.pth of fold 7"),
        (("--scores", "nowhere.csv"), None, "nowhere.csv does not exist"),
        (("--private",), None, "--private is about --push"),
        (("--push", "noname"), None, "expected OWNER/NAME"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(trained, tmp_path, capsys, options, scores, said):
    assert export(trained, tmp_path, *options, scores=scores) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "export").exists()


def test_a_folder_that_is_none_and_one_that_exists(trained, tmp_path, capsys):
    assert export(tmp_path / "nowhere", tmp_path) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "export").mkdir()
    assert export(trained, tmp_path) == 2
    assert "exists already; remove it" in capsys.readouterr().err


def test_an_import_is_where_nnunet_looks(trained, tmp_path, nnunet_folders, capsys):
    assert export(trained, tmp_path) == 0
    words = ["import-model", str(tmp_path / "export")]
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    shutil.rmtree(trained.parent)
    assert main(words) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[1] == f"nnunet-mamba predict -i IMAGES -o OUT -m {trained} -f 0 1"
    assert (trained / "fold_1" / "checkpoint_final.pth").is_file()


def test_a_number_that_is_taken_here_is_refused(trained, tmp_path, nnunet_folders, capsys):
    assert export(trained, tmp_path) == 0
    shutil.rmtree(trained.parent)
    (nnunet_folders.raw / "Dataset999_Another").mkdir()
    words = ["import-model", str(tmp_path / "export")]
    assert main(words) == 2
    assert "Dataset999_Another" in capsys.readouterr().err and not trained.parent.exists()
    assert main([*words, "--dataset", "Dataset500_Tiny", "-f", "0"]) == 0
    folder = nnunet_folders.results / "Dataset500_Tiny" / MODEL
    assert [file.name for file in folder.glob("fold_*")] == ["fold_0"]
    assert main([*words, "-o", str(tmp_path / "elsewhere")]) == 0


def test_the_hub_by_its_address(trained, tmp_path, monkeypatch, capsys):
    pushed = []

    def push(folder, repo, *, private):
        pushed.append((folder, repo, private))
        return "https://hub/doe/m"

    monkeypatch.setattr(hub, "push_export", push)
    assert export(trained, tmp_path, "--push", "doe/m", "--private") == 0
    assert pushed == [(tmp_path / "export", "doe/m", True)]
    assert capsys.readouterr().out.splitlines()[-1] == "-> https://hub/doe/m"
    asked = []

    def pull(*args):
        asked.append(args)
        return tmp_path / "export"

    monkeypatch.setattr(hub, "pull_export", pull)
    words = ["import-model", "hf://doe/m", "-o", str(tmp_path / "there")]
    assert main([*words, "--revision", "v1"]) == 0
    assert asked == [("doe/m", "v1")] and (tmp_path / "there" / DATASET / MODEL).is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere does not exist; expected an export's folder, or hf://OWNER/NAME"),
        ((".", "--revision", "v1"), "--revision is about hf://OWNER/NAME"),
        (("hf://noname",), "expected OWNER/NAME"),
        ((".",), "is no export"),
    ],
)
def test_what_is_no_source_is_refused(nnunet_folders, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["import-model", *words]) == 2
    assert said in capsys.readouterr().err


def test_without_nnunets_variable_the_error_names_it(trained, tmp_path, monkeypatch, capsys):
    assert export(trained, tmp_path) == 0
    monkeypatch.delenv("nnUNet_results")
    assert main(["import-model", str(tmp_path / "export")]) == 2
    assert "nnUNet_results is not set" in capsys.readouterr().err
