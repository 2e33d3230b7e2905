"""Jobs up to the first training: the raw dataset and its split, fingerprint, plans, preprocessed data."""

from __future__ import annotations

from pathlib import Path

from nnunet_mamba.running.command import Command
from nnunet_mamba.sweep.digests import digest
from nnunet_mamba.sweep.job import Job
from nnunet_mamba.sweep.names import Names, processes
from nnunet_mamba.sweep.study import Plans

OWN_NAME = {  # of the plans that nnU-Net's planners write
    "ExperimentPlanner": "nnUNetPlans",
    "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans",
    "nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans",
    "nnUNetPlannerResEncXL": "nnUNetResEncUNetXLPlans",
}
PLANNING = {"nnUNet_n_proc_DA": "1"}  # with 0, the choice for training on a CPU, nnU-Net's planner dies


def data(names: Names) -> Job:
    """The raw dataset with its split."""
    return _convert(names) if names.dataset.convert else _split(names)


def _convert(names: Names) -> Job:
    release = names.dataset.convert
    assert release is not None
    options = [*release.options, "--dataset-id", names.number, "--unless-there"]
    options += ["--split", names.dataset.split] if names.dataset.split else []
    return Job(
        names.data_job,
        "convert",
        Command("nnunet-mamba", ("convert", release.name, *release.sources, *options)),
        products=(names.raw / "dataset.json",),
        identity={"release": release.name, "options": " ".join(options)},
        watched=(names.raw,),
    )


def _split(names: Names) -> Job:
    """Before any training: nnU-Net's trainings would all write the file at once."""
    asked, group = names.dataset.split, names.dataset.group
    arguments = ["plans", "split", names.dataset.name, "--split", asked or "5fold"]
    arguments += ["--group", group] if group else []
    arguments += [] if asked else ["--unless-there"]
    return Job(
        names.data_job,
        "split",
        Command("nnunet-mamba", tuple(arguments)),
        products=(names.raw / "splits_final.json",) if asked else (),
        identity={"split": asked or "", "group": group or ""},
        watched=(names.raw,),
    )


def fingerprint(names: Names) -> Job:
    arguments = ("-d", names.number, "-np", str(processes()), "--verify_dataset_integrity", "--clean")
    return Job(
        names.job("fingerprint"),
        "fingerprint",
        Command("nnUNetv2_extract_fingerprint", arguments),
        needs=(names.data_job,),
        products=(names.preprocessed / "dataset_fingerprint.json",),
        threads=processes(),
    )


def plan(names: Names, plans: Plans, after: tuple[str, ...]) -> Job:
    """Plans that are not the user's own."""
    if plans.template:
        command, needs = _applied(names, plans), names.plan_job(plans.source)
    else:
        command, needs = _made(names, plans), names.job("fingerprint")
    file = names.preprocessed / f"{plans.name}.json"
    own_template = plans.template is not None and Path(plans.template).is_file()
    template = digest([Path(str(plans.template))]) if own_template else ""
    return Job(
        names.job("plan", plans.name),
        "plan",
        command,
        needs=(needs,),
        after=after,
        products=(file,),
        identity={"command": " ".join(command.arguments), "template": template},
        watched=(file,),
    )


def _applied(names: Names, plans: Plans) -> Command:
    options = ["--plans", plans.source, "--name", plans.name, "--device", names.study.device]
    options += ["--network", plans.network] if plans.network else []
    options += ["--vram-gb", f"{plans.vram_gb:g}"] if plans.vram_gb else []
    words = ("plans", "apply", str(plans.template), names.dataset.name, *options, "--replace")
    return Command("nnunet-mamba", words, PLANNING)


def _made(names: Names, plans: Plans) -> Command:
    if plans.vram_gb:
        options = ("--network", str(plans.network), "--vram-gb", f"{plans.vram_gb:g}", "--name", plans.name)
        return Command("nnunet-mamba", ("plans", "make", names.dataset.name, *options, "--replace"), PLANNING)
    assert plans.planner is not None
    renamed = OWN_NAME.get(plans.planner) != plans.name
    extra = ("-overwrite_plans_name", plans.name) if renamed else ()
    return Command("nnUNetv2_plan_experiment", ("-d", names.number, "-pl", plans.planner, *extra), PLANNING)


def preprocess(names: Names, plans: str, configuration: str, after: tuple[str, ...]) -> Job:
    arguments = ("-d", names.number, "-plans_name", plans, "-c", configuration, "-np", str(processes()))
    return Job(
        names.job("preprocess", plans, configuration),
        "preprocess",
        Command("nnUNetv2_preprocess", arguments),
        needs=(names.plan_job(plans),),
        after=after,
        products=(names.preprocessed / "gt_segmentations",),
        identity=own_plans(names, plans),
        threads=processes(),
        memory_gb=names.study.memory_gb,
        watched=(names.preprocessed / "splits_final.json",),
    )


def own_plans(names: Names, plans: str) -> dict[str, str]:
    """Plans that the user has made count by their content."""
    if not names.study.plans[plans].own:
        return {}
    file = names.preprocessed / f"{plans}.json"
    if not file.is_file():
        raise ValueError(f"Plans {plans} are said to be your own, and {file} does not exist.")
    return {"plans": digest([file])}
