"""The verb evaluate: what it prints, what it writes, and its exit code."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.io import imsave

from nnunet_mamba.cli import main
from nnunet_mamba.study.evaluation import read_table


def save(file, value=1, start=2):
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((8, 8, 8), np.uint8)
    array[start : start + 2, 3:7, 3:7] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


@pytest.fixture
def folders(tmp_path):
    """Cases a (perfect) and b (half) without any dataset.json."""
    for case, start in (("a", 2), ("b", 3)):
        save(tmp_path / "pred" / f"{case}.nii.gz", start=start)
        save(tmp_path / "ref" / f"{case}.nii.gz")
    return str(tmp_path / "pred"), str(tmp_path / "ref")


def evaluate(*words) -> int:
    return main(["evaluate", *map(str, words), "-j", "1"])


def describe(folder, **labels):
    content = {"labels": {"background": 0, **labels}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_prints_mean_deviation_and_counts_and_writes_the_table(folders, tmp_path, capsys):
    assert evaluate(*folders, "--out", tmp_path / "scores.parquet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "predictions: 2 cases, honest"
    assert lines[1].split()[:4] == ["label", "Dice", "NSD", "HD95"]
    assert lines[2].startswith("label 1         0.7500 ± 0.3536 ")
    assert lines[2].split()[-3:] == ["2", "0", "1"]
    assert lines[3].split()[:4] == ["mean", "of", "labels", "0.7500"]
    assert lines[-1].startswith("6 rows -> ")
    rows = read_table(tmp_path / "scores.parquet")
    assert {(row.case, row.label, row.metric) for row in rows} == {
        (case, "1", metric) for case in "ab" for metric in ("dice", "nsd", "hd95")
    }


def test_missing_and_extra_cases_are_named_and_the_exit_code_is_1(folders, tmp_path, capsys):
    save(tmp_path / "ref" / "c.nii.gz")
    save(tmp_path / "pred" / "z.nii.gz")
    assert evaluate(*folders) == 1
    told = capsys.readouterr()
    assert "lacks predictions of c; predict them" in told.err
    assert "predictions without a reference" in told.err and ": z." in told.err
    assert "predictions: 2 cases" in told.out


def test_missing_cases_count_as_empty_predictions_if_allowed(folders, tmp_path, capsys):
    save(tmp_path / "ref" / "c.nii.gz")
    assert evaluate(*folders, "--allow-missing", "--out", tmp_path / "s.csv") == 0
    found = {(row.case, row.metric): row for row in read_table(tmp_path / "s.csv")}
    assert (found["c", "dice"].value, found["c", "dice"].empty) == (0, "prediction")
    assert found["c", "hd95"].value == pytest.approx(8 * 3**0.5)


def test_labels_regions_metrics_and_tolerances_are_chosen(folders, tmp_path, capsys):
    describe(tmp_path / "ref", liver=1, spleen=2)
    out = tmp_path / "s.csv"
    words = [
        "--labels",
        "spleen",
        "1",
        "--metrics",
        "nsd",
        "iou",
        "--tolerance-mm",
        "2",
        "liver=0",
        "--out",
        out,
    ]
    assert evaluate(*folders, *words) == 0
    rows = read_table(out)
    assert [(r.case, r.label, r.label_name, r.metric) for r in rows[:4]] == [
        ("a", "2", "spleen", "nsd"), ("a", "2", "spleen", "iou"),
        ("a", "1", "liver", "nsd"), ("a", "1", "liver", "iou"),
    ]  # fmt: skip
    assert [row.protocol for row in rows[:2]] == ["honest tolerance-mm=1=0,2=2", "honest"]
    assert evaluate(*folders, "--regions", "all=1+2", "--metrics", "dice", "--out", out) == 0
    assert {(r.label, r.label_name) for r in read_table(out)} == {("1+2", "all")}


def test_all_results_of_a_dataset_go_into_one_table(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results" / "Dataset900_Test"
    for trainer, folds in (("nnUNetTrainer", "01"), ("nnUNetTrainerMMUNet", "0")):
        model = results / f"{trainer}__nnUNetPlans__2d"
        for fold in folds:
            save(model / f"fold_{fold}" / "validation" / f"case{fold}.nii.gz")
        describe(model, organ=1)
    for case in "01":
        save(tmp_path / "raw" / "Dataset900_Test" / "labelsTr" / f"case{case}.nii.gz")
    splits = [{"train": [], "val": [f"case{fold}"]} for fold in "01"]
    (tmp_path / "raw" / "Dataset900_Test" / "splits_final.json").write_text(json.dumps(splits))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert evaluate("--results", "900", "--metrics", "dice", "--out", tmp_path / "all.csv") == 1
    told = capsys.readouterr()
    assert "nnUNetTrainerMMUNet__nnUNetPlans__2d: fold_1 is missing" in told.err
    assert "Dataset900_Test nnUNetTrainer nnUNetPlans 2d, fold 0 1: 2 cases, honest" in told.out
    rows = read_table(tmp_path / "all.csv")
    assert [(r.trainer, r.fold, r.case, r.value) for r in rows] == [
        ("nnUNetTrainerMMUNet", "0", "case0", 1),
        ("nnUNetTrainer", "0", "case0", 1),
        ("nnUNetTrainer", "1", "case1", 1),
    ]  # fmt: skip
    assert {(r.dataset, r.plans, r.configuration, r.label_name) for r in rows} == {
        ("Dataset900_Test", "nnUNetPlans", "2d", "organ")
    }


def test_cells_are_matched_to_numbered_references(tmp_path, capsys):
    """Two cells found of three; references are TIFF files with another ending."""
    true, predicted = np.zeros((2, 40, 40), np.uint16)
    for number, left in enumerate((4, 14, 24), start=1):
        true[4:10, left : left + 6] = 300 + number
        predicted[4:10, left : left + 6] = number < 3
    for folder, name, array in (("pred", "a.png", predicted), ("ref", "a_label.tiff", true)):
        (tmp_path / folder).mkdir()
        imsave(
            tmp_path / folder / name,
            array.astype(np.uint8 if folder == "pred" else np.uint16),
            check_contrast=False,
        )
    options = [
        "--instances",
        "--reference-ending",
        "_label.tiff",
        "--metrics",
        "f1",
        "dice",
        "--out",
        tmp_path / "s.csv",
    ]
    assert evaluate(tmp_path / "pred", tmp_path / "ref", *options) == 0
    assert [row.value for row in read_table(tmp_path / "s.csv")] == pytest.approx(
        [2 * 2 / (2 + 3), 2 * 72 / (72 + 108)]
    )


def test_the_origin_may_be_told(folders, tmp_path):
    origin = ["--origin", "trainer=nnUNetTrainerMMUNet", "dataset=Dataset900_Test"]
    assert evaluate(*folders, *origin, "--metrics", "dice", "--out", tmp_path / "s.csv") == 0
    assert {(r.trainer, r.dataset) for r in read_table(tmp_path / "s.csv")} == {
        ("nnUNetTrainerMMUNet", "Dataset900_Test")
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "table.xlsx"], "should end in .csv or .parquet"),
        (["--metrics", "dsc"], "Unknown metric 'dsc'"),
        (["--protocol", "mine"], "Unknown protocol 'mine'"),
        (["--tolerance-mm", "liver:5"], "'liver:5' is not a tolerance"),
        (["--regions", "whole"], "'whole' is not a region; expected NAME=1+2+3"),
        (["--labels", "liver"], "There is no label 'liver'"),
        (["--origin", "colour=red"], "'colour=red' is not a column"),
        (["--results", "900"], "expected PRED and REF, or --results"),
    ],
)
def test_bad_options_are_one_line(folders, capsys, words, message):
    assert evaluate(*folders, *words) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_protocols_are_listed_with_their_difference(capsys):
    assert main(["evaluate", "--list"]) == 0
    assert "brats-lesionwise: Mean over lesions" in capsys.readouterr().out


def test_rows_of_other_metrics_do_not_change_with_nsds_tolerance(folders, tmp_path):
    for name, options in (("a", []), ("b", ["--tolerance-mm", "2"])):
        assert (
            evaluate(*folders, "--metrics", "dice", "nsd", *options, "--out", tmp_path / f"{name}.csv") == 0
        )
    a, b = (read_table(tmp_path / f"{name}.csv") for name in "ab")
    assert {row.protocol for row in a} == {"honest"}
    assert {row.protocol for row in b if row.metric == "dice"} == {"honest"}
    assert {row.protocol for row in b if row.metric == "nsd"} == {"honest tolerance-mm=2"}


def test_a_region_of_a_value_that_is_not_there_is_refused(folders, tmp_path, capsys):
    describe(tmp_path / "ref", liver=1, spleen=2)
    assert evaluate(*folders, "--regions", "WT=1+7") == 2
    assert "WT has the value 7, which dataset.json does not name (0, 1, 2)" in capsys.readouterr().err


def test_labels_of_the_first_nnunet_are_refused_in_words(folders, tmp_path, capsys):
    describe(tmp_path / "ref", liver=1)
    file = tmp_path / "ref" / "dataset.json"
    file.write_text(file.read_text().replace('"liver": 1', '"1": "liver"'))
    assert evaluate(*folders) == 2
    assert "nnU-Net v1 mapped value to name" in capsys.readouterr().err


@pytest.mark.parametrize("choice", [[], ["--labels", "1"], ["--regions", "all=1+2"]])
def test_predictions_that_number_their_organs_otherwise_are_refused(folders, tmp_path, capsys, choice):
    """--labels says what is scored, not which of the two numberings holds."""
    describe(tmp_path / "pred", aorta=1, spleen=2)
    describe(tmp_path / "ref", spleen=1, aorta=2)
    assert evaluate(*folders, *choice) == 2
    told = capsys.readouterr().err
    assert "aorta is 1 in the first and 2 in the second" in told and "--dataset-json FILE" in told
    assert all(str(tmp_path / name / "dataset.json") in told for name in ("pred", "ref"))
    file = tmp_path / "ref" / "dataset.json"
    assert evaluate(*folders, *choice, "--dataset-json", file, "--out", tmp_path / "s.csv") == 0
    assert choice or {(row.label, row.label_name) for row in read_table(tmp_path / "s.csv")} == {
        ("1", "spleen"), ("2", "aorta"),
    }  # fmt: skip


def test_where_nothing_is_left_to_score_the_reason_is_told_and_no_table_written(
    tmp_path, monkeypatch, capsys
):
    model = tmp_path / "results" / "Dataset900_Test" / "nnUNetTrainer__nnUNetPlans__2d"
    save(model / "fold_7" / "validation" / "a.nii.gz")
    describe(model, organ=1)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    assert evaluate("--results", model / "fold_7", "--out", tmp_path / "s.csv") == 1
    told = capsys.readouterr()
    assert "has no fold_7" in told.err and "nothing to score" in told.err and not told.out
    assert not (tmp_path / "s.csv").exists()


def test_a_folder_named_twice_is_scored_once(tmp_path, monkeypatch, capsys):
    model = tmp_path / "results" / "Dataset900_Test" / "nnUNetTrainer__nnUNetPlans__2d"
    save(model / "fold_0" / "validation" / "a.nii.gz")
    describe(model, organ=1)
    save(tmp_path / "raw" / "Dataset900_Test" / "labelsTr" / "a.nii.gz")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    words = ["--metrics", "dice", "--out", tmp_path / "s.csv"]
    assert evaluate("--results", model, model, model / "fold_0", *words) == 1  # four folds are missing
    assert len(read_table(tmp_path / "s.csv")) == 1
    assert capsys.readouterr().err.count("fold_1 is missing") == 1


def test_two_predictions_of_a_case_that_nothing_tells_apart_are_not_averaged(tmp_path, monkeypatch, capsys):
    model = tmp_path / "results" / "Dataset900_Test" / "nnUNetTrainer__nnUNetPlans__2d"
    folders = model / "fold_0" / "validation", model / "crossval_results_folds_0"
    raw = tmp_path / "raw" / "Dataset900_Test"
    for folder in (*folders, raw / "labelsTr"):
        save(folder / "a.nii.gz")
    describe(model, organ=1)
    (raw / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["a"]}]))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert evaluate("--results", model) == evaluate("--results", folders[1]) == 0
    assert evaluate("--results", *folders) == 2
    told = capsys.readouterr().err
    assert "a would be scored twice as one" in told and all(
        str(folder / "a.nii.gz") in told for folder in folders
    )


def test_what_was_trained_on_its_cases_is_not_averaged_with_what_was_not(tmp_path, monkeypatch, capsys):
    model = tmp_path / "results" / "Dataset900_Test" / "nnUNetTrainer__nnUNetPlans__2d"
    save(model / "fold_0" / "validation" / "a.nii.gz", start=3)
    save(model / "fold_all" / "validation" / "a.nii.gz")
    describe(model, organ=1)
    save(tmp_path / "raw" / "Dataset900_Test" / "labelsTr" / "a.nii.gz")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    evaluate("--results", model / "fold_0", model / "fold_all", "--metrics", "dice")
    told = capsys.readouterr().out
    assert "nnUNetPlans 2d, fold 0: 1 cases" in told
    assert "nnUNetPlans 2d trained on these cases, fold all: 1 cases" in told
    means = [line.split()[3] for line in told.splitlines() if line.startswith("mean of labels")]
    assert means == ["0.5000", "1.0000"]
