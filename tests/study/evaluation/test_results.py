"""nnU-Net's folders of results, made here with two cases per fold."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.study.evaluation import Origin
from nnunet_mamba.study.evaluation.match import find_dataset_json
from nnunet_mamba.study.evaluation.results import find_runs, read_origin

DATASET = "Dataset900_Test"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
OTHER = "nnUNetTrainerMMUNet__nnUNetPlans__2d"
DESCRIPTION = {
    "labels": {"background": 0, "organ": 1},
    "file_ending": ".nii.gz",
    "channel_names": {"0": "CT"},
}
FOLDS = [["a", "b"], ["c", "d"]]


def save(folder, *cases):
    folder.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 6, 6), np.uint8)
    array[1:3, 2:4, 2:4] = 1
    for case in cases:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{case}.nii.gz"))


def describe(folder, name="dataset.json", content=DESCRIPTION):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def places(tmp_path):
    """raw, preprocessed, results of a dataset: one trainer with both folds, one with the second alone."""
    raw, preprocessed, results = (tmp_path / name for name in ("raw", "preprocessed", "results"))
    save(raw / DATASET / "labelsTr", *"abcd")
    save(raw / DATASET / "labelsTs", "t")
    describe(raw / DATASET)
    splits = [{"train": [], "val": val} for val in FOLDS]
    describe(preprocessed / DATASET, "splits_final.json", splits)
    for model, folds in ((MODEL, (0, 1)), (OTHER, (1,))):
        describe(results / DATASET / model)
        for fold in folds:
            save(results / DATASET / model / f"fold_{fold}" / "validation", *FOLDS[fold])
            (results / DATASET / model / f"fold_{fold}" / "validation" / "summary.json").write_text("{}")
    return raw, preprocessed, results / DATASET


def test_all_trainers_and_folds_of_a_dataset_are_found_and_missing_folds_named(places):
    raw, preprocessed, results = places
    runs, missing = find_runs(results, raw, preprocessed)
    assert [(run.origin.trainer, run.origin.configuration, run.origin.fold) for run in runs] == [
        ("nnUNetTrainerMMUNet", "2d", "1"),
        ("nnUNetTrainer", "3d_fullres", "0"),
        ("nnUNetTrainer", "3d_fullres", "1"),
    ]
    assert {run.origin.dataset for run in runs} == {DATASET}
    assert runs[1].expected == ("a", "b") and not runs[1].match_cases().describe_problems()
    assert missing == [f"{OTHER}: fold_0 is missing"]


def test_one_fold_is_enough_if_it_alone_is_asked_for(places):
    raw, preprocessed, results = places
    runs, missing = find_runs(results / MODEL, raw, preprocessed, folds=["1"])
    assert [run.origin.fold for run in runs] == ["1"] and missing == []
    runs, missing = find_runs(results, raw, preprocessed, folds=["0"])
    assert [(run.origin.trainer, run.origin.fold) for run in runs] == [("nnUNetTrainer", "0")]
    assert missing == [f"{OTHER}: fold_0 is missing"]
    runs, missing = find_runs(results / MODEL, raw, preprocessed, folds=["7"])
    assert runs == [] and missing == [f"{MODEL}: fold_7 is missing"]
    with pytest.raises(ValueError, match="is of fold 1, and only 0 should be scored"):
        find_runs(results / MODEL / "fold_1", raw, preprocessed, folds=["0"])


def test_a_fold_without_validation_is_named_with_the_command(places):
    raw, preprocessed, results = places
    validation = results / MODEL / "fold_0" / "validation"
    for file in validation.glob("*.nii.gz"):
        file.unlink()
    runs, missing = find_runs(results / MODEL, raw, preprocessed)
    assert [run.origin.fold for run in runs] == ["1"]
    assert missing == [f"{MODEL}: fold_0 has no validation; `nnUNetv2_train ... --val` makes it"]
    with pytest.raises(ValueError, match=r"validation holds no predictions; `nnUNetv2_train \.\.\. --val`"):
        find_runs(validation, raw, preprocessed)
    under = MODEL.replace("__", "@noise10__", 1)
    (results / MODEL).rename(results / under)
    _, missing = find_runs(results / under, raw, preprocessed)
    assert missing == [f"{under}: fold_0 has no validation; `nnunet-mamba validate ...` makes it"]


def test_a_case_that_the_split_expects_and_the_fold_lacks_is_missing(places):
    raw, preprocessed, results = places
    (results / MODEL / "fold_0" / "validation" / "b.nii.gz").unlink()
    (run,), _ = find_runs(results / MODEL / "fold_0", raw, preprocessed)
    assert run.match_cases().missing == ["b"]


def test_without_the_split_what_is_there_is_scored(places):
    raw, preprocessed, results = places
    (preprocessed / DATASET / "splits_final.json").unlink()
    runs, missing = find_runs(results / MODEL, raw, None)
    assert [sorted(run.match_cases().references) for run in runs] == FOLDS
    assert missing == [f"{MODEL}: fold_{k} is missing" for k in (2, 3, 4)]


def test_references_are_taken_from_the_preprocessed_data_if_the_raw_are_gone(places):
    _, preprocessed, results = places
    with pytest.raises(ValueError, match="There are no references; looked for "):
        find_runs(results, None, preprocessed)
    save(preprocessed / DATASET / "gt_segmentations", *"abcd")
    runs, _ = find_runs(results, None, preprocessed)
    assert {run.references.name for run in runs} == {"gt_segmentations"}


def test_fold_all_stands_alone(places):
    raw, preprocessed, results = places
    model = results / "nnUNetTrainer__nnUNetPlans__2d"
    describe(model)
    save(model / "fold_all" / "validation", *"abcd")
    (run,), missing = find_runs(model, raw, preprocessed)
    assert (run.origin.fold, missing) == ("all", [])
    assert sorted(run.match_cases().references) == list("abcd")


def test_joined_folds_are_told_apart_by_the_split_and_not_counted_twice(places):
    raw, preprocessed, results = places
    joined = results / MODEL / "crossval_results_folds_0_1"
    save(joined, *"abcd")
    describe(joined)
    assert len(find_runs(results / MODEL, raw, preprocessed)[0]) == 2
    (run,), _ = find_runs(joined, raw, preprocessed)
    tasks = run.make_tasks(run.match_cases(), config=None)
    assert {task.case: task.origin.fold for task in tasks} == {"a": "0", "b": "0", "c": "1", "d": "1"}


def split(places, *folds):
    _, preprocessed, _ = places
    content = [{"train": [], "val": list(cases)} for cases in folds]
    describe(preprocessed / DATASET, "splits_final.json", content)


def join(places, name, cases):
    folder = places[2] / MODEL / f"crossval_results_folds_{name}"
    save(folder, *cases)
    describe(folder)
    return folder


def remove_validations(places):
    for folder in (places[2] / MODEL).glob("fold_*/validation"):
        shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["", MODEL, f"{MODEL}/fold_2", f"{MODEL}/fold_2/validation"])
def test_a_fold_that_the_split_does_not_have_is_named_and_left_out(places, place):
    """nnU-Net draws 80:20 over the cases for it, so that it says nothing of unseen patients."""
    raw, preprocessed, results = places
    save(results / MODEL / "fold_2" / "validation", *"abc")
    runs, faults = find_runs(results / place, raw, preprocessed)
    assert "2" not in {run.origin.fold for run in runs}
    (told,) = [fault for fault in faults if "fold_2" in fault]
    assert "fold_2" in told and "is left out" in told
    assert str(preprocessed / DATASET / "splits_final.json") + " ends with fold_1 and has no fold_2" in told


@pytest.mark.parametrize("fold", ["5", "11", "00"])
def test_without_the_split_nnunets_own_has_five_folds(places, fold):
    raw, preprocessed, results = places
    (preprocessed / DATASET / "splits_final.json").unlink()
    save(results / MODEL / f"fold_{fold}" / "validation", "a")
    runs, faults = find_runs(results / MODEL / f"fold_{fold}", raw, preprocessed)
    assert not runs
    assert (
        f"nnU-Net's own split (no splits_final.json was found) ends with fold_4 and has no fold_{fold}"
        in (faults[0])
    )


@pytest.mark.parametrize(("folds", "lacking"), [(["abcd"], "fold_1, fold_2"), (["ab", "cd"], "fold_2")])
def test_joined_folds_of_which_the_split_lacks_some_are_left_out(places, folds, lacking):
    raw, preprocessed, _ = places
    joined = join(places, "0_1_2", "abcd")
    split(places, *folds)
    for folder in (joined, joined.parent):
        remove_validations(places)
        runs, faults = find_runs(folder, raw, preprocessed)
        assert not runs
        assert [f"has no {lacking}." in fault for fault in faults if str(joined) in fault] == [True]
    assert f"{MODEL}: fold_0 has no validation" in " ".join(faults)


def test_of_joined_folds_that_share_a_case_nobody_knows_whose_prediction_it_is(places):
    raw, preprocessed, _ = places
    joined = join(places, "0_1", "abc")
    split(places, "ab", "bc")
    runs, (told,) = find_runs(joined, raw, preprocessed)
    assert not runs and "validates b in several folds" in told and "Score the folds themselves" in told


def test_of_a_model_with_joined_folds_alone_the_others_are_missing(places):
    raw, preprocessed, results = places
    join(places, "0", "ab")
    join(places, "0_1", "abcd")
    join(places, "0_old", "a")
    remove_validations(places)
    split(places, *FOLDS, "e")
    (run,), missing = find_runs(results / MODEL, raw, preprocessed)
    assert run.predictions.name == "crossval_results_folds_0_1"
    assert missing == [f"{MODEL}: fold_2 is missing"]


def test_joined_folds_that_tell_no_number_are_refused_and_all_is_no_number(places):
    raw, preprocessed, _ = places
    with pytest.raises(ValueError, match=r"0_old does not say which folds it joins"):
        find_runs(join(places, "0_old", "a"), raw, preprocessed)
    (run,), _ = find_runs(join(places, "all", "abcd"), raw, preprocessed)
    assert (run.origin.fold, run.expected) == ("all", None)


@pytest.mark.parametrize("joined", [False, True])
def test_predictions_of_another_split_are_said_to_be_that(places, joined):
    raw, preprocessed, results = places
    folder = join(places, "0", "acz") if joined else results / MODEL / "fold_0" / "validation"
    save(folder, *"acz")
    (folder / "b.nii.gz").unlink(missing_ok=True)
    (run,), _ = find_runs(folder, raw, preprocessed)
    matched = run.match_cases()
    assert (sorted(matched.references), matched.missing) == (["a", "b"], ["b"])
    no_reference, other_split = matched.describe_extra()
    assert no_reference.endswith(": z.")
    assert "has predictions of c, which are not validation cases of " in other_split
    assert str(preprocessed / DATASET / "splits_final.json") in other_split
    assert "train it again, or restore its split" in other_split


@pytest.mark.parametrize("text", ["[", "{}", '[{"train": []}]', '["a"]', '[{"val": 1}]'])
def test_a_split_that_is_none_is_refused(places, text):
    raw, preprocessed, results = places
    (preprocessed / DATASET / "splits_final.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not a split of nnU-Net; .*nnunet-mamba plans split"):
        find_runs(results, raw, preprocessed)


def test_a_split_of_no_folds_has_none(places):
    raw, preprocessed, results = places
    split(places)
    runs, faults = find_runs(results / MODEL, raw, preprocessed)
    assert not runs and ["has no fold_0" in faults[0], "has no fold_1" in faults[1]] == [True, True]


def test_results_of_a_dataset_that_numbers_its_labels_anew_are_refused(places):
    raw, preprocessed, results = places
    file = raw / DATASET / "dataset.json"
    describe(raw / DATASET, content={**DESCRIPTION, "labels": {"background": 0, "vessel": 1, "organ": 2}})
    with pytest.raises(ValueError, match=r"organ is 1 in the first and 2 in the second; vessel is not"):
        find_runs(results, raw, preprocessed)
    runs, _ = find_runs(results, raw, preprocessed, file)
    assert {len(run.description["labels"]) for run in runs} == {3}


def test_a_folder_of_test_predictions_knows_its_dataset_by_its_plans(places, tmp_path):
    raw, preprocessed, _ = places
    folder = tmp_path / "predictions"
    save(folder, "t")
    describe(folder)
    describe(folder, "plans.json", {"dataset_name": DATASET, "plans_name": "nnUNetResEncUNetMPlans"})
    (run,), _ = find_runs(folder, raw, preprocessed)
    assert run.origin == Origin(dataset=DATASET, plans="nnUNetResEncUNetMPlans", fold="test")
    assert run.references == raw / DATASET / "labelsTs"


def test_folders_that_tell_nothing_are_refused(places, tmp_path):
    raw, preprocessed, results = places
    with pytest.raises(ValueError, match="does not name its dataset"):
        find_runs(tmp_path, raw, preprocessed)
    for name in (MODEL, OTHER):
        (results / name).rename(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds no results \(TRAINER__PLANS__CONFIGURATION\)"):
        find_runs(results, raw, preprocessed)


def test_a_dataset_json_that_was_cut_off_is_not_passed_over(places):
    raw, _, results = places
    validation = results / MODEL / "fold_0" / "validation"
    (validation / "dataset.json").write_text('{"labels": {"background": 0, "org')
    with pytest.raises(ValueError, match=r"cannot be read as a dataset\.json"):
        find_dataset_json(validation, raw / DATASET / "labelsTr")


def test_dataset_json_is_found_beside_predictions_or_above_a_validation(places):
    raw, _, results = places
    validation = results / MODEL / "fold_0" / "validation"
    assert find_dataset_json(validation, raw) == results / MODEL / "dataset.json"
    (results / MODEL / "dataset.json").unlink()
    assert find_dataset_json(validation, raw / DATASET / "labelsTr") == raw / DATASET / "dataset.json"
    describe(validation, content={"labels": {"0": "background"}, "modality": {"0": "CT"}})  # the Decathlon's
    assert find_dataset_json(validation, raw / DATASET / "labelsTr") == raw / DATASET / "dataset.json"
    assert read_origin(validation) == Origin(DATASET, "nnUNetTrainer", "nnUNetPlans", "3d_fullres", "0")


@pytest.mark.parametrize(
    ("folder", "seed"),
    [
        (f"nnUNet_results/seed_12/{DATASET}/{MODEL}/fold_1/validation", "12"),
        (f"nnUNet_results/{DATASET}/{MODEL}/fold_1/validation", ""),
        (f"seed_3/nnUNet_results/{DATASET}/{MODEL}/fold_1", ""),  # of whatever that was
        (f"nnUNet_results/seed_x/{DATASET}/{MODEL}", ""),
    ],
)
def test_trainings_of_a_sweep_tell_their_seed_by_the_folder_above_the_dataset(tmp_path, folder, seed):
    origin = read_origin(tmp_path / folder)
    assert (origin.dataset, origin.trainer, origin.seed) == (DATASET, MODEL.split("__")[0], seed)


def test_the_results_of_a_network_under_a_condition_are_its_own(tmp_path):
    origin = read_origin(tmp_path / DATASET / "nnUNetTrainerX@noise10__nnUNetPlans__2d" / "fold_0")
    assert origin.trainer == "nnUNetTrainerX@noise10" and origin.method.condition == "noise10"
