"""Jobs of a study: their names, what they wait for, and their commands."""

import json
from pathlib import Path

import pytest

from nnunet_mamba.study.sweep.build_jobs import build_jobs
from nnunet_mamba.study.sweep.read import read_study

DATASET = "Dataset004_Hippocampus"


class Everything(dict):
    """Description of every trainer: its network has a mixer, but for a twin's; stock trainers tell none."""

    def __missing__(self, name):
        network = {"mixer": None if "NoSSM" in name else {"kind": "mamba"}}
        return json.dumps({"name": name, **({} if name == "nnUNetTrainer" else {"network": network})})


@pytest.fixture
def jobs(write_study):
    def of(**changes):
        return {job.name: job for job in build_jobs(read_study(write_study(**changes)), Everything())}

    return of


def kinds(table):
    return [job.kind for job in table.values()]


def test_a_study_of_two_trainers_and_two_folds(jobs):
    table = jobs()
    expected = ["split", "fingerprint", "plan", "preprocess", *["train"] * 4, *["evaluate"] * 2, "compare"]
    assert kinds(table) == [*expected, "report"]


def test_every_job_comes_after_all_that_it_waits_for(jobs):
    test = {"name": "held_out", "labels": "labelsTs", "parts": 3}
    table = jobs(
        datasets=[{"dataset": DATASET, "test": [test]}, {"dataset": "Dataset005_Prostate"}],
        plans={"small": {"template": "cpu"}, "nnUNetPlans": {}, "big": {"network": "mm_unet", "vram_gb": 24}},
        configurations=["3d_cascade_fullres", "3d_lowres", "2d"],
        folds=[0, 1, 2, 3, 4],
        seeds=[0, 1],
    )
    seen = set()
    for job in table.values():
        assert {*job.needs, *job.after} <= seen, job.name
        seen.add(job.name)


def test_the_commands_are_nnunets_own(jobs, tmp_path):
    table = jobs(seeds=[7])
    train = table[f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__2d.seed_7.fold_1"]
    assert [train.command.program, *train.command.arguments] == (
        [
            "nnUNetv2_train",
            "4",
            "2d",
            "1",
            "-tr",
            "nnUNetTrainerMMUNet",
            "-p",
            "nnUNetPlans",
            "-device",
            "cpu",
        ]
    )
    assert train.command.variables["NNUNET_MAMBA_SEED"] == "7"
    assert train.command.variables["nnUNet_results"] == str(tmp_path / "nnUNet_results" / "seed_7")
    fold = tmp_path / "nnUNet_results/seed_7" / DATASET / "nnUNetTrainerMMUNet__nnUNetPlans__2d/fold_1"
    assert train.products == (fold / "checkpoint_final.pth", fold / "validation/summary.json")
    plan = table[f"plan.{DATASET}.nnUNetPlans"]
    assert str(plan.command) == "nnUNet_n_proc_DA=1 nnUNetv2_plan_experiment -d 4 -pl ExperimentPlanner"


def test_a_gpu_gets_workers_that_augment_and_a_cpu_none(jobs):
    cpu, gpu = jobs(), jobs(device="cuda", threads=12, gpus=2)
    first = f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__2d.fold_0"
    assert cpu[first].command.variables["nnUNet_n_proc_DA"] == "0" and cpu[first].gpus == 0
    assert gpu[first].command.variables["nnUNet_n_proc_DA"] == "11" and gpu[first].gpus == 2
    assert "-num_gpus 2" in str(gpu[first].command)


def test_a_mac_trains_on_its_own_gpu_which_is_not_shared_out(jobs):
    train = jobs(device="mps", threads=4)[f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__2d.fold_0"]
    assert str(train.command).endswith("-device mps") and train.gpus == 0
    assert train.command.variables["nnUNet_n_proc_DA"] == "3"


def test_data_are_preprocessed_once_for_all_templates_over_the_same_plans(jobs):
    table = jobs(plans={"a": {"template": "cpu"}, "b": {"template": "cpu"}})
    preprocess = [name for name in table if name.startswith("preprocess")]
    assert preprocess == [f"preprocess.{DATASET}.nnUNetPlans.2d"]
    for name, job in table.items():
        if job.kind == "train":
            plans = name.split("__")[1]
            assert job.needs == (f"plan.{DATASET}.{plans}", *preprocess)


def test_plans_that_fail_hold_back_their_own_trainings_alone(jobs):
    table = jobs(plans={"nnUNetPlans": {}, "nnUNetResEncUNetMPlans": {"planner": "nnUNetPlannerResEncM"}})

    def held_back(failed: str) -> set[str]:
        names = {failed}
        for name, job in table.items():
            if names & {*job.needs, *job.after}:
                names.add(name)
        return names

    first, second = (
        held_back(f"plan.{DATASET}.{plans}") for plans in ("nnUNetPlans", "nnUNetResEncUNetMPlans")
    )
    trainings = {name for name, job in table.items() if job.kind == "train"}
    assert len(first & trainings) == len(second & trainings) == 4
    assert not first & second & trainings and not first & second & {n for n in table if "preprocess" in n}


def test_a_cascade_waits_for_all_folds_of_its_low_resolution(jobs):
    table = jobs(configurations=["3d_lowres", "3d_cascade_fullres"], folds=[0, 1, 2, 3, 4])
    cascade = table[f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__3d_cascade_fullres.fold_3"]
    lowres = [f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__3d_lowres.fold_{k}" for k in range(5)]
    assert list(cascade.needs[2:]) == lowres
    assert cascade.needs[1] == f"preprocess.{DATASET}.nnUNetPlans.3d_fullres"


def test_parts_of_a_test_set_are_predicted_by_jobs_of_their_own_and_scored_together(jobs):
    test = {"name": "held_out", "images": "imagesTs", "labels": "labelsTs", "parts": 2}
    table = jobs(datasets=[{"dataset": DATASET, "test": [test]}])
    of_first = [n for n in table if n.startswith(f"predict.{DATASET}.held_out.nnUNetTrainerMMUNet__")]
    assert [str(table[name].command).partition("-num_parts")[2] for name in of_first] == [
        " 2 -part_id 0",
        " 2 -part_id 1",
    ]
    assert "-f 0 1" in str(table[of_first[0]].command)
    evaluate = f"evaluate.{DATASET}.held_out.nnUNetTrainerMMUNet__nnUNetPlans__2d.honest"
    assert list(table[evaluate].needs) == of_first
    assert "trainer=nnUNetTrainerMMUNet" in table[evaluate].command.arguments


def test_a_report_on_a_test_set_is_told_where_each_methods_label_maps_are(jobs):
    test = {"name": "held_out", "images": "imagesTs", "labels": "labelsTs"}
    table = jobs(datasets=[{"dataset": DATASET, "test": [test]}])
    report = table[f"report.{DATASET}.held_out.honest"].command.arguments
    assert "--predictions" not in table[f"report.{DATASET}.crossval.honest"].command.arguments
    at = report.index("--predictions")
    folders, tables = report[at + 1 : report.index("--references")], report[1 : report.index("--dataset")]
    assert [folder.split("/")[-1] for folder in folders] == [
        Path(file).name.split(".")[0] for file in tables
    ]  # in their order
    assert report[report.index("--images") + 1].endswith("imagesTs")
    assert "--results" in report


def test_a_test_set_without_labels_is_predicted_and_not_scored(jobs):
    table = jobs(datasets=[{"dataset": DATASET, "test": [{"name": "leaderboard"}]}])
    assert [name.split(".")[0] for name in table if ".leaderboard." in name] == ["predict", "predict"]


def test_seeds_are_scored_apart_and_all_compared(jobs):
    test = {"name": "held_out", "images": "imagesTs", "labels": "labelsTs"}
    table = jobs(seeds=[1, 2, 3], datasets=[{"dataset": DATASET, "test": [test]}])
    scored = [name for name, job in table.items() if job.kind == "evaluate" and ".crossval." in name]
    assert len(scored) == 6
    for kind in ("compare", "report"):
        job = next(job for job in table.values() if job.kind == kind)
        assert list(job.needs) == scored
        assert [word.endswith(".parquet") for word in job.command.arguments].count(True) == 6
    for name in scored:
        (seed,) = {folder.split("/")[-4] for folder in table[name].command.arguments if "fold_" in folder}
        assert seed == f"seed_{table[name].cache_inputs['seed']}" and seed in name
    told = [word for job in table.values() if ".held_out." in job.name for word in job.command.arguments]
    assert [word for word in told if word.startswith("seed=")] == ["seed=1", "seed=2", "seed=3"] * 2
    plain = next(job for job in jobs().values() if job.kind == "evaluate")
    assert "seed_" not in str(plain.command) and "seed" not in plain.cache_inputs


def test_margins_reach_the_comparisons_of_their_metrics(jobs):
    table = jobs(metrics=["dice", "hd95", "nsd"], margins={"dice": 0.01, "hd95": 0.5, "assd": 1})
    margins = {
        job.products[0].name: str(job.command).partition("--margin ")[2].split(" ")[0]
        for job in table.values()
        if job.kind == "compare"
    }
    assert margins == {"dice": "0.01", "hd95": "0.5", "nsd": ""}
    report = next(job for job in table.values() if job.kind == "report")
    assert "--margin dice=0.01 hd95=0.5 --out" in str(report.command)
    assert not any("--margin" in job.command.arguments for job in jobs().values())


def test_one_method_has_a_report_and_nothing_to_be_compared_with(jobs):
    found = kinds(jobs(methods=["A"]))
    assert found.count("report") == 1 and "compare" not in found


def test_a_dataset_is_converted_unless_it_is_there_and_then_split(jobs, tmp_path):
    (tmp_path / "release").mkdir()
    convert = {"name": "msd", "sources": ["release"], "options": ["--partial"]}
    table = jobs(datasets=[{"dataset": DATASET, "convert": convert, "split": "7:3"}])
    release = str(tmp_path / "release")
    expected = [
        "convert",
        "msd",
        release,
        "--partial",
        "--split",
        "7:3",
        "--dataset-id",
        "4",
        "--unless-there",
    ]
    assert list(table[f"convert.{DATASET}"].command.arguments) == expected
    assert table[f"split.{DATASET}"].command.arguments[2:] == (DATASET, "--split", "7:3", "--partial")
    assert table[f"split.{DATASET}"].after == (f"convert.{DATASET}",)
    without = jobs(datasets=[{"dataset": DATASET, "split": "7:3"}])
    assert without[f"split.{DATASET}"].needs == table[f"split.{DATASET}"].needs == ()


def test_a_split_is_kept_unless_the_study_asks_for_one(jobs):
    assert "--unless-there" in jobs()[f"split.{DATASET}"].command.arguments
    asked = jobs(datasets=[{"dataset": DATASET, "split": "7:3", "group": "a\\d+"}])[f"split.{DATASET}"]
    assert asked.command.arguments[2:] == (DATASET, "--split", "7:3", "--group", "a\\d+")


def test_a_baseline_and_metrics_reach_those_who_need_them(jobs):
    table = jobs(metrics=["dice", "hd95"], baseline="nnUNet", tolerance_mm=[2])
    compare = [job for job in table.values() if job.kind == "compare"]
    assert [job.command.arguments[job.command.arguments.index("--metric") + 1] for job in compare] == [
        "dice",
        "hd95",
    ]
    assert all("--baseline" in job.command.arguments for job in compare)
    assert not any(job.products[0].suffix for job in compare), "a folder, as the command sees it"
    evaluate = next(job for job in table.values() if job.kind == "evaluate")
    assert "--metrics dice hd95 --tolerance-mm 2" in str(evaluate.command)


def test_own_plans_must_be_there_and_count_by_their_content(jobs, tmp_path):
    with pytest.raises(ValueError, match=r"mine\.json does not exist"):
        jobs(plans={"mine": {"own": True}})
    file = tmp_path / "nnUNet_preprocessed" / DATASET / "mine.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    first = jobs(plans={"mine": {"own": True}})
    assert "plan" not in kinds(first)
    file.write_text('{"changed": 1}')
    second = jobs(plans={"mine": {"own": True}})
    assert all(
        first[n].cache_inputs != second[n].cache_inputs
        for n in first
        if n.startswith(("train", "preprocess"))
    )


def test_what_changes_no_result_outdates_nothing(jobs, tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.json").write_text('{"a": 1}' if folder == "here" else '{ "a":1 }')
    first = jobs(plans={"small": {"template": "here/t.json"}})
    second = jobs(
        plans={"small": {"template": "there/t.json"}}, threads=2, memory_gb=64, hours=3, device="cuda",
        datasets=[{"dataset": DATASET, "group": "a"}],
    )  # fmt: skip
    grouped = ("compare", "report")  # by patients now
    assert all(first[n].cache_inputs == second[n].cache_inputs for n in first if first[n].kind not in grouped)


def test_plans_made_from_own_plans_depend_on_them(jobs, tmp_path):
    file = tmp_path / "nnUNet_preprocessed" / DATASET / "mine.json"
    file.parent.mkdir(parents=True)
    plans = {"mine": {"own": True}, "small": {"template": "cpu", "from": "mine"}}
    seen = []
    for text in ("{}", '{"changed": 1}'):
        file.write_text(text)
        seen.append(jobs(plans=plans)[f"plan.{DATASET}.small"].cache_inputs)
    assert seen[0] != seen[1]


def test_fold_all_has_no_cases_of_its_own_to_be_evaluated_on(jobs):
    test = {"name": "held_out", "labels": "labelsTs"}
    table = jobs(folds=["all"], datasets=[{"dataset": DATASET, "test": [test]}], mirroring=False)
    assert not [name for name in table if "crossval" in name]
    predict = next(job for job in table.values() if job.kind == "predict")
    assert "-f all" in str(predict.command) and "--disable_tta" in predict.command.arguments


def test_variables_of_the_study_reach_its_trainings_and_count(jobs, monkeypatch):
    plain = jobs()
    table = jobs(variables={"NNUNET_MAMBA_CHECKPOINT_STAGES": 2})
    first = next(name for name in table if name.startswith("train"))
    assert table[first].command.variables["NNUNET_MAMBA_CHECKPOINT_STAGES"] == "2"
    assert table[first].cache_inputs != plain[first].cache_inputs
    monkeypatch.setenv("NNUNET_MAMBA_VMAMBA", "weights.pth")
    assert jobs()[first].command.variables["NNUNET_MAMBA_VMAMBA"] == "weights.pth"
    assert jobs()[first].cache_inputs != plain[first].cache_inputs


CONDITIONS = {"quick": {"mirroring": False, "step_size": 1}, "nomixer": {"without_mixer": True}}


def test_folds_are_validated_again_under_each_condition_that_their_network_can_have(jobs, tmp_path):
    trainers = ["nnUNetTrainerMMUNet", "nnUNetTrainerMMUNetNoSSM", "nnUNetTrainer"]
    table = jobs(conditions=CONDITIONS, methods=trainers, seeds=[7])
    validations = [job for job in table.values() if job.kind == "validate"]
    under = ["nnUNetTrainerMMUNet@quick", "nnUNetTrainerMMUNet@nomixer"]
    under += ["nnUNetTrainerMMUNetNoSSM@quick", "nnUNetTrainer@quick"]
    ends = [f"{trainer}__nnUNetPlans__2d.seed_7.fold_{fold}" for fold in (0, 1) for trainer in under]
    assert [job.name for job in validations] == [f"validate.{DATASET}.{end}" for end in ends]
    job = validations[1]
    assert job.needs == (f"train.{DATASET}.nnUNetTrainerMMUNet__nnUNetPlans__2d.seed_7.fold_0",)
    results = tmp_path / "nnUNet_results" / "seed_7"
    assert job.own_folder == results / DATASET / "nnUNetTrainerMMUNet@nomixer__nnUNetPlans__2d" / "fold_0"
    assert job.command.variables["nnUNet_results"] == str(results)
    words = "-d 4 -c 2d -tr nnUNetTrainerMMUNet -p nnUNetPlans -f 0 --name nomixer --without-mixer"
    more = "-device cpu --mixed --continue_prediction"
    assert " ".join(job.command.arguments) == f"validate {words} {more}"
    assert "--disable_tta -step_size 1 " in " ".join(validations[0].command.arguments)


def test_conditions_are_rows_of_the_cross_validation_alone(jobs):
    test = {"name": "held_out", "labels": "labelsTs"}
    table = jobs(conditions=CONDITIONS, datasets=[{"dataset": DATASET, "test": [test]}])
    of_crossval, of_test = (
        [name.split(".")[3] for name in table if name.startswith(f"evaluate.{DATASET}.{of}.")]
        for of in ("crossval", "held_out")
    )
    names = ["MMUNet", "MMUNet@quick", "MMUNet@nomixer", "MMUNetNoSSM", "MMUNetNoSSM@quick"]
    assert of_crossval == [f"nnUNetTrainer{name}__nnUNetPlans__2d" for name in names]
    assert of_test == [f"nnUNetTrainer{name}__nnUNetPlans__2d" for name in ("MMUNet", "MMUNetNoSSM")]
    scored = table[f"evaluate.{DATASET}.crossval.nnUNetTrainerMMUNet@quick__nnUNetPlans__2d.honest"]
    folds = [f"nnUNetTrainerMMUNet@quick__nnUNetPlans__2d.fold_{fold}" for fold in (0, 1)]
    assert scored.needs == tuple(f"validate.{DATASET}.{fold}" for fold in folds)
    compared = table[f"compare.{DATASET}.crossval.honest.dice"]
    assert scored.name in compared.needs and len(compared.needs) == 5


def test_another_condition_under_the_same_name_is_made_anew(jobs):
    one, other = (
        jobs(conditions={"noise": {"noise": level}})[
            f"validate.{DATASET}.nnUNetTrainerMMUNet@noise__nnUNetPlans__2d.fold_0"
        ]
        for level in (0.1, 0.2)
    )
    assert one.cache_inputs != other.cache_inputs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": {"same": {"mirroring": True}}}, "conditions: same are those of the training"),
        ({"conditions": CONDITIONS, "folds": "all"}, "conditions are of the folds' own cases"),
        ({"conditions": {"a__b": {"noise": 1}}}, "conditions"),
        ({"conditions": {"a": {"noise": -1}}}, "conditions: a: noise is -1; expected"),
        ({"conditions": {"a": {"nois": 1}}}, "did you mean 'noise'"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(write_study, changes, said):
    with pytest.raises(ValueError, match=said):
        read_study(write_study(**changes))
