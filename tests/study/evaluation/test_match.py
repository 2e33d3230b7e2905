import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from skimage.io import imsave

from nnunet_mamba.study.evaluation import (
    Label,
    Origin,
    Score,
    average_seeds,
    compute_foreground_mean,
    evaluate_folder,
    read_table,
    select_scored_labels,
    summarise,
    write_table,
)
from nnunet_mamba.study.evaluation.config import EvaluationConfig
from nnunet_mamba.study.evaluation.evaluate import score_tasks
from nnunet_mamba.study.evaluation.label_maps import read_label_map
from nnunet_mamba.study.evaluation.labels import known_values, labels_of_values
from nnunet_mamba.study.evaluation.match import match_cases

SPACING_XYZ_MM = (1.0, 1.0, 3.0)  # header order: slices are 3 mm apart


def write(
    file: Path,
    array: np.ndarray,
    spacing: tuple[float, ...] = SPACING_XYZ_MM,
    origin: tuple[float, ...] = (0.0, 0.0, 0.0),
    direction: tuple[float, ...] | None = None,
) -> None:
    file.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(file))


def blob(value: int = 1, start: int = 2) -> np.ndarray:
    """A 2 x 4 x 4 box of `value` that begins at slice `start`."""
    array = np.zeros((8, 10, 12), np.uint8)
    array[start : start + 2, 3:7, 3:7] = value
    return array


@pytest.fixture
def folders(tmp_path):
    """predictions, references, dataset.json of one case that is predicted perfectly."""
    write(tmp_path / "pred" / "a.nii.gz", blob())
    write(tmp_path / "ref" / "a.nii.gz", blob())
    describe(tmp_path, {"background": 0, "liver": 1, "spleen": 2})
    return tmp_path / "pred", tmp_path / "ref", tmp_path / "dataset.json"


def describe(folder: Path, labels: dict, ending: str = ".nii.gz") -> None:
    description = {"labels": labels, "file_ending": ending, "channel_names": {"0": "CT"}}
    (folder / "dataset.json").write_text(json.dumps(description))


def value(scores, case, label_name, metric):
    (found,) = [s for s in scores if (s.case, s.label_name, s.metric) == (case, label_name, metric)]
    return found


def test_every_case_label_and_metric_has_one_row(folders):
    scores = evaluate_folder(*folders)
    assert len(scores) == 1 * 2 * 2
    assert value(scores, "a", "liver", "dice").value == 1
    assert value(scores, "a", "liver", "hd95").value == 0
    assert value(scores, "a", "liver", "dice").n_voxels == 32
    assert value(scores, "a", "liver", "dice").label == "1"


def test_a_label_absent_from_both_is_not_counted(folders):
    scores = evaluate_folder(*folders)
    absent = value(scores, "a", "spleen", "dice")
    assert math.isnan(absent.value)
    assert (absent.empty, absent.n_voxels) == ("both", 0)
    row = {(r.label_name, r.metric): r for r in summarise(scores)}["spleen", "dice"]
    assert (row.n_cases, row.n_excluded) == (0, 1)
    assert compute_foreground_mean(scores) == 1


def test_a_missed_organ_has_dice_0_and_the_diagonal_as_distance(folders):
    predictions, references, _ = folders
    write(references / "b.nii.gz", blob(value=2))
    write(predictions / "b.nii.gz", blob(value=1))
    scores = evaluate_folder(*folders)
    missed = value(scores, "b", "spleen", "hd95")
    assert missed.empty == "prediction"
    assert missed.value == pytest.approx(math.sqrt((8 * 3) ** 2 + 10**2 + 12**2))
    assert value(scores, "b", "liver", "dice").empty == "reference"
    assert value(scores, "b", "spleen", "dice").value == value(scores, "b", "liver", "dice").value == 0


def test_distances_are_in_mm_of_the_header_with_slices_first(folders):
    predictions, _, _ = folders
    write(predictions / "a.nii.gz", blob(start=3))
    assert value(evaluate_folder(*folders), "a", "liver", "hd95").value == pytest.approx(3.0)


def test_cases_are_matched_by_name_not_by_order(folders):
    predictions, references, _ = folders
    for name, start in (("b", 1), ("c", 5)):
        write(references / f"{name}.nii.gz", blob(start=start))
    write(predictions / "c.nii.gz", blob(start=5))
    write(predictions / "b.nii.gz", blob(start=1))
    scores = evaluate_folder(*folders)
    assert [value(scores, name, "liver", "dice").value for name in "abc"] == [1, 1, 1]


def test_missing_and_extra_predictions_are_named(folders):
    predictions, references, _ = folders
    write(references / "b.nii.gz", blob())
    with pytest.raises(ValueError, match=r"lacks predictions of b; predict them"):
        evaluate_folder(*folders)
    (references / "b.nii.gz").unlink()
    write(predictions / "z.nii.gz", blob())
    with pytest.raises(ValueError, match=r"without a reference .*: z\."):
        evaluate_folder(*folders)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("spacing", {"spacing": (1.0, 1.0, 2.5)}),
        ("origin", {"origin": (0.0, 0.0, 3.0)}),
        ("direction", {"direction": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)}),
    ],
)
def test_another_grid_is_refused(folders, what, change):
    write(folders[0] / "a.nii.gz", blob(), **change)
    with pytest.raises(ValueError, match=rf"a\.nii\.gz .* differ in {what}: "):
        evaluate_folder(*folders)


def test_another_size_is_refused(folders):
    write(folders[0] / "a.nii.gz", blob()[:, :-1])
    with pytest.raises(ValueError, match=r"differ in size: \(12, 9, 8\) against \(12, 10, 8\)"):
        evaluate_folder(*folders)


def test_rounding_of_the_header_is_no_other_grid(folders):
    write(folders[0] / "a.nii.gz", blob(), spacing=(1.0, 1.0, 3.0001), origin=(1e-5, 0.0, 0.0))
    assert value(evaluate_folder(*folders), "a", "liver", "dice").value == 1


def test_regions_join_their_labels_and_ignored_voxels_do_not_count(folders):
    predictions, references, description = folders
    describe(description.parent, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3})
    reference = blob(1)
    reference[2, 3:7, 3:7] = 2  # half of the box is core
    reference[0] = 3
    write(references / "a.nii.gz", reference)
    prediction = blob(1)
    prediction[0] = 1  # where nobody knows the truth
    write(predictions / "a.nii.gz", prediction)
    scores = evaluate_folder(*folders)
    assert value(scores, "a", "whole", "dice").value == 1
    assert value(scores, "a", "whole", "dice").label == "1+2"
    assert value(scores, "a", "core", "dice").value == 0


def test_whole_floats_are_labels_and_probabilities_are_not(tmp_path):
    write(tmp_path / "a.nii.gz", blob().astype(np.float32))
    assert read_label_map(tmp_path / "a.nii.gz").array.dtype.kind == "i"
    for name, bad in (("half.nii.gz", 0.5), ("nan.mha", np.nan)):  # ITK reads a NaN in a NIfTI file as 0
        write(tmp_path / name, np.where(blob(), bad, 0).astype(np.float32))
        with pytest.raises(ValueError, match=rf"{name} holds values that are not whole numbers"):
            read_label_map(tmp_path / name)


def test_a_truncated_prediction_is_named(folders):
    file = folders[0] / "a.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.nii\.gz cannot be read as an image"):
        evaluate_folder(*folders)


def test_a_folder_without_predictions_is_refused(folders):
    (folders[0] / "a.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"holds no file that ends in '\.nii\.gz'"):
        evaluate_folder(*folders)


def test_the_table_says_what_the_scores_say(folders, tmp_path):
    scores = evaluate_folder(*folders)
    write_table(scores, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(scores)
    told = {"case": "a", "label": "1", "label_name": "liver", "metric": "dice", "value": "1.0"}
    assert {name: rows[0][name] for name in told} == told
    assert (rows[0]["n_voxels"], rows[0]["empty"], rows[0]["trainer"]) == ("32", "", "")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_is_read_as_it_was_written(tmp_path, ending):
    file = tmp_path / f"scores.{ending}"
    first = Score("007", "1+2", "", "hd95", float("inf"), 3, "both", fold="0", trainer="NA", seed="07")
    write_table([first, replace(first, value=0.1 + 0.2, case="null")], file)
    assert read_table(file) == [first, replace(first, value=0.1 + 0.2, case="null")]
    write_table([replace(first, value=math.nan)], file)
    assert math.isnan(read_table(file)[0].value)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_of_before_there_were_seeds_is_read(tmp_path, ending):
    file, score = tmp_path / f"scores.{ending}", Score("a", "1", "", "dice", 0.5, 3, "", seed="4")
    write_table([score], file)
    frame = (pd.read_csv if ending == "csv" else pd.read_parquet)(file).drop(columns="seed")
    frame.to_csv(file, index=False) if ending == "csv" else frame.to_parquet(file, index=False)
    assert read_table(file) == [replace(score, seed="")]


def test_seeds_are_averaged_case_by_case():
    """A mask that one training left empty is empty; what one does not define is not defined."""
    first = Score("a", "1", "", "dice", 0.5, 3, "", trainer="X", seed="0", backend="numpy", version="1")
    nan = replace(first, case="b", value=math.nan)
    other = replace(first, trainer="Y", seed="9")
    again = [replace(first, value=0.0, empty="prediction", seed="1"), replace(nan, value=0.1, seed="1")]
    mean, undefined, alone = average_seeds([first, nan, *again, other])
    assert mean == replace(first, value=0.25, empty="prediction", seed="")
    assert undefined.case == "b" and math.isnan(undefined.value)
    assert alone == other


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"is not a table of scores: it lacks dataset, trainer"):
        read_table(tmp_path / "other.csv")
    with pytest.raises(ValueError, match=r"should end in \.csv or \.parquet"):
        read_table(tmp_path / "table.txt")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        read_table(tmp_path / "broken.parquet")


def test_summary_is_mean_and_sample_deviation_over_cases(folders):
    predictions, references, _ = folders
    write(references / "b.nii.gz", blob(start=2))
    write(predictions / "b.nii.gz", blob(start=3))  # half of it
    row = {(r.label_name, r.metric): r for r in summarise(evaluate_folder(*folders))}["liver", "dice"]
    assert row.mean == pytest.approx(0.75)
    assert row.sd == pytest.approx(math.sqrt(0.125))
    assert row.n_cases == 2


# Bad input


def test_a_label_that_the_data_set_does_not_have_is_refused(folders):
    write(folders[0] / "a.nii.gz", blob(value=7))
    with pytest.raises(
        ValueError, match=r"pred/a\.nii\.gz holds the label 7, .* not have \(0, 1, 2\)\. Give"
    ):
        evaluate_folder(*folders)


def test_a_reference_with_a_label_that_the_data_set_does_not_have_is_refused_too(folders):
    write(folders[1] / "a.nii.gz", blob(value=7))
    with pytest.raises(ValueError, match=r"ref/a\.nii\.gz holds the label 7"):
        evaluate_folder(*folders)


def test_a_region_holds_its_own_values_and_none_between_them():
    values = np.arange(6)
    assert Label("ends", (1, 4)).mask(values).tolist() == [False, True, False, False, True, False]


def test_background_is_no_label_to_score_though_it_is_there():
    assert labels_of_values([2, 0, 1]) == (Label("", (1,)), Label("", (2,)))


def test_background_is_known_though_nobody_names_it():
    assert known_values({"labels": {"liver": 1, "tumours": [2, 4], "ignore": 5}}) == {0, 1, 2, 4, 5}


def test_the_mean_over_labels_gives_each_label_the_same_weight():
    """Label 1 has the mean 0.6 of two cases, label 2 that of its one case, 1: together 0.8."""
    first, other = (Score("a", number, "", "dice", 0.5, 1, "") for number in "12")
    scores = [first, replace(first, case="b", value=0.7), replace(other, value=1.0)]
    assert compute_foreground_mean([*scores, replace(other, case="b", value=math.nan)]) == pytest.approx(0.8)


def test_faults_of_several_files_are_told_together(folders):
    predictions, references, _ = folders
    write(predictions / "a.nii.gz", blob(value=7))
    write(references / "b.nii.gz", blob())
    write(predictions / "b.nii.gz", blob()[:, :-1])
    with pytest.raises(ValueError, match=r"(?s)a\.nii\.gz holds the label 7.*b\.nii\.gz .* differ in size"):
        evaluate_folder(*folders)


def test_a_case_that_is_there_twice_is_refused(folders):
    write(folders[0] / "a.nii", blob())
    with pytest.raises(ValueError, match=r"holds the case a twice: a\.nii and a\.nii\.gz\. Remove one"):
        evaluate_folder(*folders)


def test_files_with_another_ending_are_named(folders):
    (folders[0] / "a.nii.gz").unlink()
    write(folders[0] / "a.mha", blob())
    with pytest.raises(ValueError, match=r"ends in '\.nii\.gz'; it has a\.mha\. Convert its files"):
        evaluate_folder(*folders)


def test_a_prediction_with_channels_is_refused(folders):
    channels = sitk.JoinSeries([sitk.GetImageFromArray(blob()), sitk.GetImageFromArray(blob())])
    sitk.WriteImage(channels, str(folders[0] / "a.nii.gz"))
    with pytest.raises(ValueError, match=r"a\.nii\.gz has the shape \(2, 8, 10, 12\), and values per"):
        evaluate_folder(*folders)


def test_nan_in_a_nifti_file_is_seen_though_itk_reads_it_as_0(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.where(blob(), np.nan, 0).T, np.eye(4)), tmp_path / "nan.nii.gz")
    with pytest.raises(
        ValueError, match=r"nan\.nii\.gz .*: 32 are NaN or infinite\. .* predict this case again"
    ):
        read_label_map(tmp_path / "nan.nii.gz")


def test_a_dataset_json_of_something_else_is_refused(folders):
    for text, words in (("{}", "it lacks file_ending, labels"), ("[", "cannot be read as a dataset.json")):
        folders[2].write_text(text)
        with pytest.raises(ValueError, match=words):
            evaluate_folder(*folders)


# Pictures


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures_are_scored_in_pixels(tmp_path, ending):
    for folder, shift in (("pred", 2), ("ref", 0)):
        array = np.zeros((20, 20), np.uint8)
        array[5:10, 5 + shift : 10 + shift] = 1
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / f"a{ending}", array, check_contrast=False)
    describe(tmp_path, {"background": 0, "lesion": 1}, ending)
    dice, hd95 = evaluate_folder(tmp_path / "pred", tmp_path / "ref", tmp_path / "dataset.json")
    assert (dice.value, hd95.value) == (pytest.approx(0.6), 2)


def test_pictures_with_colours_and_jpegs_are_refused(tmp_path):
    coloured = np.full((8, 8, 3), (1, 2, 3), np.uint8)
    imsave(tmp_path / "rgb.png", coloured, check_contrast=False)
    imsave(tmp_path / "lossy.jpg", np.zeros((8, 8), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match=r"rgb\.png is a coloured picture; expected one label per pixel"):
        read_label_map(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"lossy\.jpg is a JPEG"):
        read_label_map(tmp_path / "lossy.jpg")


def test_the_pooled_protocol_sums_the_pixels_of_all_images(tmp_path):
    """TP 4 + 0, FP 0 + 1, FN 0 + 3: IoU 4/8, though the mean of the images is 1/2 of 1 and 0."""
    for folder, second in (("pred", [(0, 0)]), ("ref", [(3, 0), (3, 1), (3, 2)])):
        (tmp_path / folder).mkdir()
        images = np.zeros((2, 4, 4), np.uint8)
        images[0, :2, :2] = 255
        for place in second:
            images[(1, *place)] = 255
        for name, image in zip("ab", images, strict=True):
            imsave(tmp_path / folder / f"{name}.png", image, check_contrast=False)
    describe(tmp_path, {"background": 0, "lesion": 255}, ".png")
    scores = evaluate_folder(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "dataset.json", metrics=(), protocol="vmunet-isic"
    )
    assert {s.metric: s.value for s in scores} == pytest.approx(
        {"iou": 0.5, "dice": 2 / 3, "accuracy": 28 / 32, "specificity": 24 / 25, "sensitivity": 4 / 7}
    )
    assert {(s.case, s.n_voxels, s.protocol) for s in scores} == {("(all)", 7, "vmunet-isic")}


def test_of_pooled_images_without_any_lesion_what_is_undefined_is_0(tmp_path):
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
        imsave(tmp_path / folder / "a.png", np.zeros((4, 4), np.uint8), check_contrast=False)
    describe(tmp_path, {"background": 0, "lesion": 255}, ".png")
    scores = evaluate_folder(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "dataset.json", metrics=(), protocol="vmunet-isic"
    )
    assert {s.metric: s.value for s in scores} == {
        "iou": 0, "dice": 0, "accuracy": 1, "specificity": 1, "sensitivity": 0,
    }  # fmt: skip


# What a row says


def test_rows_name_what_computed_them_and_what_was_chosen(folders):
    labels = select_scored_labels(json.loads(folders[2].read_text()))[0]
    matched = match_cases(*folders[:2])
    config = EvaluationConfig(labels, ("dice", "nsd"), tolerances_mm={"": 2.0, "liver": 5.0}, empty="nan")
    rows = score_tasks(matched.make_tasks(config, Origin(fold="test")))
    assert {(row.metric, row.protocol) for row in rows} == {
        ("dice", "honest empty=nan"),
        ("nsd", "honest tolerance-mm=1=5,2=2 empty=nan"),
    }
    assert {(row.metric, row.backend) for row in rows} == {("dice", "numpy"), ("nsd", "monai")}
    assert all(row.version and row.fold == "test" for row in rows)
    assert [config.tolerance_mm(label) for label in labels] == [5.0, 2.0]


def test_threads_give_the_same_rows_in_the_same_order(folders):
    for name, start in (("b", 1), ("c", 5)):
        write(folders[0] / f"{name}.nii.gz", blob(start=start))
        write(folders[1] / f"{name}.nii.gz", blob(start=2))
    one, two = (evaluate_folder(*folders, metrics=("hd95",), jobs=jobs) for jobs in (1, 2))
    assert repr(one) == repr(two)  # NaN differs from itself
