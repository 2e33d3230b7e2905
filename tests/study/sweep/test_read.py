"""Study files: their meaning, and the errors of wrong ones."""

from pathlib import Path

import pytest
import yaml

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.sweep.read import read_study
from nnunet_mamba.study.sweep.study import Plans

DATASET = "Dataset004_Hippocampus"


@pytest.fixture
def read(editor):
    """Return a reader of studies for whom an editor must know what it reads."""

    def of(file):
        study = read_study(file)
        assert editor.is_valid(yaml.safe_load(file.read_text())), file.read_text()
        return study

    return of


def test_every_trainer_meets_every_plan_that_is_not_only_a_basis(read, write_study):
    plans = {"nnUNetPlans": {}, "small": {"template": "cpu"}, "other": {"planner": "nnUNetPlannerResEncM"}}
    study = read(write_study(methods=None, trainers=["A", "B"], plans=plans))
    assert study.methods == tuple(Method(t, p, "2d") for t in "AB" for p in ("small", "other"))


def test_a_method_may_have_its_own_plans_and_configurations(read, write_study):
    plans = {"nnUNetPlans": {}, "nnUNetResEncUNetMPlans": {"planner": "nnUNetPlannerResEncM"}}
    methods = [{"trainer": "A", "plans": "nnUNetResEncUNetMPlans", "configurations": ["2d", "3d_fullres"]}]
    study = read(write_study(plans=plans, methods=methods))
    assert [str(method) for method in study.methods] == [
        "A__nnUNetResEncUNetMPlans__2d",
        "A__nnUNetResEncUNetMPlans__3d_fullres",
    ]


def test_plans_below_a_template_are_made_even_where_nobody_wrote_them_down(read, write_study):
    study = read(write_study(plans={"small": {"template": "cpu"}}))
    assert study.plans["nnUNetPlans"].planner == "ExperimentPlanner"
    assert [method.plans for method in study.methods] == ["small", "small"]


def test_plans_that_say_nothing_are_made_by_nnunets_own_planner(read, write_study):
    stock = {"nnUNetPlans": Plans("nnUNetPlans", planner="ExperimentPlanner")}
    assert read(write_study()).plans == stock
    for written in (None, {}):
        study = read(write_study(plans={"nnUNetPlans": written, "mine": {"own": True}}))
        assert study.plans == {**stock, "mine": Plans("mine", own=True)}


def test_results_of_seeds_lie_apart_and_those_without_lie_where_nnunet_puts_them(read, write_study, tmp_path):
    study = read(write_study(seeds=[1, 2]))
    assert study.results(None) == tmp_path / "nnUNet_results"
    assert study.results(2) == tmp_path / "nnUNet_results" / "seed_2"


def test_variables_and_places_beside_the_file_are_found(read, write_study, tmp_path, monkeypatch):
    (tmp_path / "release").mkdir()
    (tmp_path / "my_trainers").mkdir()
    monkeypatch.setenv("RELEASE", str(tmp_path / "release"))
    dataset = {"dataset": "Dataset004_Hippocampus", "convert": {"name": "msd", "sources": ["$RELEASE"]}}
    study = read(write_study(datasets=[dataset], trainers_from=["my_trainers"]))
    assert study.datasets[0].convert.sources == (str(tmp_path / "release"),)
    assert study.trainers_from == (tmp_path / "my_trainers",)


BREAKS = "\n\r\t\0\x7f\x85\u2028\u2029\ud800"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": ["A"]}, "did you mean 'trainers'?"),
        ({"device": "gpu"}, "device is 'gpu'; expected 'cuda', 'cpu' or 'mps'."),
        ({"folds": [0, 0]}, "folds is [0, 0]; expected each once."),
        ({"folds": ["first"]}, "fold 1 is 'first'; expected a number, or all."),
        ({"folds": ["٣"]}, "fold 1 is '٣'"),
        ({"folds": "01"}, "fold 1 is '01'"),
        ({"folds": []}, "folds is []; expected at least one."),
        ({"seeds": [-1]}, "seed 1 is -1; expected a whole number from 0 on."),
        ({"seeds": [1, "1"]}, "seeds is [1, '1']; expected each once."),
        ({"threads": 0}, "threads is 0; expected a whole number from 1 on"),
        ({"threads": True}, "threads is True; expected a whole number from 1 on."),
        ({"threads": 1.0}, "threads is 1.0; expected a whole number"),
        ({"out": True}, "out is True; expected a word"),
        ({"metrics": ["dice", False]}, "metric 2 is False; expected a word"),
        (
            {"plans": {"a": {"vram_gb": True, "network": "mm_unet"}}},
            "plans: a: vram_gb is True; expected a number.",
        ),
        ({"plans": {"a": {"vram_gb": 0, "network": "mm_unet"}}}, "vram_gb is 0; expected a number above 0."),
        ({"plans": {}}, "plans is {}; expected at least one."),
        ({"methods": [3]}, "method 1 is 3; expected keys and values."),
        ({"methods": [{"trainer": "A", "plans": []}]}, "method 1: plans is []; expected at least one."),
        ({"trainers": {"A": "plans"}}, "trainers is {'A': 'plans'}; expected a list."),
        ({"npz": "yes"}, "npz is 'yes'; expected true or false"),
        ({"methods": []}, "trains nothing"),
        ({"methods": ["A", "A"]}, "A__nnUNetPlans__2d is listed twice"),
        ({"methods": ["A__B"]}, "method 1: trainer is 'A__B'; expected no __, which separates"),
        ({"methods": [{"trainer": "A", "plans": "mine"}]}, "plans mine, which are not among: nnUNetPlans"),
        ({"plans": {"a": {"template": "cpu", "planner": "P"}}}, "several origins"),
        ({"plans": {"a": {"network": "mm_unet"}}}, "needs vram_gb"),
        ({"plans": {"a": {"vram_gb": 8}}}, "vram_gb plans for a network"),
        ({"plans": {"a": {"template": "cpu", "from": "b"}}}, "made from b, which the study does not have"),
        (
            {"plans": {"a": {"template": "cpu", "from": "b"}, "b": {"template": "cpu", "from": "a"}}},
            "each other",
        ),
        ({"datasets": []}, "datasets is []; expected at least one."),
        ({"datasets": ["Dataset001_A", "Dataset001_A"]}, "each once"),
        (
            {"datasets": [{"dataset": 4, "convert": {"name": "msd", "sources": ["x"]}}]},
            "write the whole name",
        ),
        ({"datasets": [{"split": "5fold"}]}, "dataset 1 lacks 'dataset'"),
        ({"trainers_from": ["nowhere"]}, "nowhere does not exist"),
        ({"out": "$NOWHERE_AT_ALL/out"}, "the variable NOWHERE_AT_ALL is not set"),
        ({"name": "a b"}, "name is 'a b'; expected letters"),
        ({"out": "~nobody_of_this_name/out"}, "~nobody_of_this_name/out is the folder of no user"),
        *(({"out": f"a{char}b"}, "expected one line, without control characters.") for char in BREAKS),
        (
            {"datasets": ["Dataset004_My data"]},
            "dataset 1: 'Dataset004_My data' is no name; expected Dataset###_",
        ),
        ({"datasets": ["Dataset004_{a}"]}, "dataset 1: 'Dataset004_{a}' is no name"),
        ({"datasets": ["DatasetX"]}, "dataset 1: 'DatasetX' is no name"),
        ({"variables": {"A B": "1"}}, "variables has a key 'A B'; expected letters, digits and _."),
        ({"variables": {True: "1"}}, "variables has a key True; expected a word"),
        ({"configurations": ["3d_cascade_fullres"]}, "needs nnUNetTrainerMMUNet__nnUNetPlans__3d_lowres"),
        (
            {"datasets": [{"dataset": DATASET, "test": [{}, {}]}]},
            "test sets are test, test; expected each",
        ),
        ({"datasets": [{"dataset": DATASET, "test": {"name": "crossval"}}]}, "and none crossval"),
        (
            {"datasets": [{"dataset": DATASET, "group": "("}]},
            "dataset 1: group is '('; expected a regular",
        ),
        ({"protocols": ["honest", "honest"]}, "protocols is ['honest', 'honest']; expected each once"),
        ({"protocols": []}, "protocols is []; expected at least one"),
        ({"metrics": ["dice", "dice"]}, "expected each once"),
        (
            {"plans": {"a": {"vram_gb": float("inf"), "network": "mm_unet"}}},
            "vram_gb is inf; expected a finite number",
        ),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(write_study, changes, message):
    with pytest.raises(ValueError) as error:
        read_study(write_study(**changes))
    assert message in str(error.value)


def test_a_folder_may_be_called_anything(read, write_study, tmp_path, odd):
    for name in ("release", "trainers", "tests"):
        (tmp_path / odd / name).mkdir(parents=True)
    dataset = {
        "dataset": "Dataset004_Hippocampus",
        "convert": {"name": "msd", "sources": [f"{odd}/release"]},
        "test": [{"images": f"{odd}/tests"}],
    }
    folders = {name: f"{odd}/{name}" for name in ("raw", "preprocessed", "results")}
    changes = {"out": f"{odd}/out", "folders": folders, "datasets": [dataset]}
    with pytest.raises(ValueError, match=r"nnU-Net takes : for the end of a folder"):
        read_study(write_study(**changes, trainers_from=[f"{odd}/trainers"]))
    study = read(write_study(**changes))
    assert study.out == Path(odd, "out").absolute() and study.folders["nnUNet_raw"].parent.name == odd
    assert study.datasets[0].convert.sources == (str(tmp_path / odd / "release"),)
    assert study.datasets[0].tests[0].images == tmp_path / odd / "tests"


def test_a_release_need_not_be_kept_once_it_is_converted(write_study, tmp_path):
    dataset = {"dataset": "Dataset004_Hippocampus", "convert": {"name": "msd", "sources": ["gone.zip"]}}
    with pytest.raises(ValueError, match=r"gone\.zip does not exist"):
        read_study(write_study(datasets=[dataset]))
    file = tmp_path / "nnUNet_raw" / "Dataset004_Hippocampus" / "dataset.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert read_study(write_study(datasets=[dataset])).datasets[0].convert.name == "msd"
    assert read_study(write_study(datasets=[4])).datasets[0].name == "Dataset004_Hippocampus"


@pytest.mark.parametrize("text", ["just words", "a: [", "", "- 1\n- 2"])
def test_a_file_that_is_no_study_is_refused(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"study\.yaml"):
        read_study(file)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist; expected a study"):
        read_study(tmp_path / "none.yaml")


def test_nnunets_folders_must_be_known(write_study, monkeypatch):
    file = write_study()
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(ValueError, match="nnUNet_raw is not set; export it, or write folders"):
        read_study(file)
    file = write_study(folders={"raw": "/data/raw"})
    assert str(read_study(file).folders["nnUNet_raw"]) == "/data/raw"


def test_one_entry_needs_no_list(read, write_study):
    study = read(write_study(datasets=DATASET, methods="A", metrics="dice", folds=0))
    assert [dataset.name for dataset in study.datasets] == [DATASET] and study.folds == ("0",)
    assert [method.trainer for method in study.methods] == ["A"]
    study = read(write_study(datasets={"dataset": DATASET, "test": {"name": "one"}}))
    assert study.datasets[0].tests[0].name == "one"
