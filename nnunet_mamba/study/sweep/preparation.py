"""Jobs up to the first training: the raw dataset and its split, fingerprint, plans, preprocessed data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command, n_processes
from nnunet_mamba.study.sweep.digests import digest
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.names import Names
from nnunet_mamba.study.sweep.study import Plans

OWN_NAME = {  # of the plans that nnU-Net's planners write
    "ExperimentPlanner": "nnUNetPlans",
    "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans",
    "nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans",
    "nnUNetPlannerResEncXL": "nnUNetResEncUNetXLPlans",
}
PLANNING = {"nnUNet_n_proc_DA": "1"}  # with 0, the choice for training on a CPU, nnU-Net's planner dies


def convert(names: Names) -> Job:
    """A dataset that is there is not converted again, whatever it was made of."""
    release = names.dataset.convert
    assert release is not None
    split = ("--split", names.dataset.split) if names.dataset.split else ()
    options = (*release.options, *split, "--dataset-id", names.number, "--unless-there")
    return Job(
        names.job("convert"),
        "convert",
        Command("nnunet-mamba", ("convert", release.name, *release.sources, *options)),
        products=(names.raw / "dataset.json",),
    )


def split(names: Names) -> Job:
    """Before any training: nnU-Net's trainings would all write the file at once."""
    asked, group = names.dataset.split, names.dataset.group
    arguments = ["plans", "split", names.dataset.name, "--split", asked or "5fold"]
    arguments += ["--group", group] if group else []
    arguments += [] if asked else ["--unless-there"]
    release = names.dataset.convert
    arguments += [option for option in (release.options if release else ()) if option == "--partial"]
    return Job(
        names.job("split"),
        "split",
        Command("nnunet-mamba", tuple(arguments)),
        after=(names.job("convert"),) if names.dataset.convert else (),
        products=(names.raw / "splits_final.json",) if asked else (),
        identity={"split": asked, "group": group or ""} if asked else {},
        sources=(names.raw,),
        watched=(names.raw / "splits_final.json",),
    )


def fingerprint(names: Names) -> Job:
    arguments = ("-d", names.number, "-np", str(n_processes()), "--verify_dataset_integrity", "--clean")
    return Job(
        names.job("fingerprint"),
        "fingerprint",
        Command("nnUNetv2_extract_fingerprint", arguments),
        needs=(names.job("split"),),
        products=(names.preprocessed / "dataset_fingerprint.json",),
        threads=n_processes(),
        memory_gb=names.study.memory_gb,
        hours=names.study.hours,
    )


def plan(names: Names, plans: Plans, after: tuple[str, ...]) -> Job:
    """Plans that are not the user's own."""
    if plans.template:
        command, needs = _applied(names, plans), names.plan_job(plans.source)
    else:
        command, needs = _made(names, plans), names.job("fingerprint")
    file = names.preprocessed / f"{plans.name}.json"
    below = own_plans(names, plans.source) if plans.template else {}
    return Job(
        names.job("plan", plans.name),
        "plan",
        command,
        needs=(needs,),
        after=after,
        products=(file,),
        identity={"plans": _described(plans), **{f"{key} below": text for key, text in below.items()}},
        watched=(file,),
    )


def _described(plans: Plans) -> str:
    """What they are made by; a template of the user's by its content, wherever it lies."""
    own = plans.template is not None and Path(plans.template).is_file()
    template = digest([Path(str(plans.template))]) if own else plans.template
    return json.dumps({**asdict(plans), "template": template}, sort_keys=True)


def _applied(names: Names, plans: Plans) -> Command:
    options = ["--plans", plans.source, "--name", plans.name]
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
    arguments = ("-d", names.number, "-plans_name", plans, "-c", configuration, "-np", str(n_processes()))
    return Job(
        names.job("preprocess", plans, configuration),
        "preprocess",
        Command("nnUNetv2_preprocess", arguments),
        needs=(names.plan_job(plans),),
        after=after,
        identity=own_plans(names, plans),
        threads=n_processes(),
        memory_gb=names.study.memory_gb,
        hours=names.study.hours,
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
