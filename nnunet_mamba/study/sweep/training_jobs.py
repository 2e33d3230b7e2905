"""Jobs that prepare data (convert, split, fingerprint, plan, preprocess), train and predict."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.nnunet.commands import MOST_PROCESSES, Command, count_processes
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.sweep.checksums import compute_checksum
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.study import CASCADE, LOWRES, DatasetNames, Plans, Study, TestSet

PLANS_OF_PLANNER = {  # the plans that nnU-Net's planners write
    "ExperimentPlanner": "nnUNetPlans",
    "nnUNetPlannerResEncM": "nnUNetResEncUNetMPlans",
    "nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans",
    "nnUNetPlannerResEncXL": "nnUNetResEncUNetXLPlans",
}
PLANNING = {"nnUNet_n_proc_DA": "1"}  # with 0, the choice for training on a CPU, nnU-Net's planner dies


def build_convert_job(names: DatasetNames) -> Job:
    """Return the conversion; a dataset that exists is not converted again, whatever it was made of."""
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


def build_split_job(names: DatasetNames) -> Job:
    """Return the split, made before any training: nnU-Net's trainings would all write the file at once."""
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
        cache_inputs={"split": asked, "group": group or ""} if asked else {},
        sources=(names.raw,),
        lock=names.lock,
        watched=(names.raw / "splits_final.json",),
    )


def build_fingerprint_job(names: DatasetNames) -> Job:
    arguments = ("-d", names.number, "-np", str(count_processes()), "--verify_dataset_integrity", "--clean")
    return Job(
        names.job("fingerprint"),
        "fingerprint",
        Command("nnUNetv2_extract_fingerprint", arguments),
        needs=(names.job("split"),),
        products=(names.preprocessed / "dataset_fingerprint.json",),
        lock=names.lock,
        threads=count_processes(),
        memory_gb=names.study.memory_gb,
        hours=names.study.hours,
    )


def build_plan_job(names: DatasetNames, plans: Plans) -> Job:
    """Return the planning of plans that are not the user's own."""
    if plans.template:
        command, needs = _apply_command(names, plans), names.plan_job(plans.source)
    else:
        command, needs = _make_command(names, plans), names.job("fingerprint")
    file = names.preprocessed / f"{plans.name}.json"
    below = own_plans_inputs(names, plans.source) if plans.template else {}
    return Job(
        names.job("plan", plans.name),
        "plan",
        command,
        needs=(needs,),
        products=(file,),
        cache_inputs={
            "plans": _describe_plans(plans),
            **{f"{key} below": text for key, text in below.items()},
        },
        lock=names.lock,
        watched=(file,),
    )


def _describe_plans(plans: Plans) -> str:
    """Return what the plans are made by; a template of the user's counts by its content, wherever it lies."""
    own = plans.template is not None and Path(plans.template).is_file()
    template = compute_checksum([Path(str(plans.template))]) if own else plans.template
    return json.dumps({**asdict(plans), "template": template}, sort_keys=True)


def _apply_command(names: DatasetNames, plans: Plans) -> Command:
    options = ["--plans", plans.source, "--name", plans.name]
    options += ["--network", plans.network] if plans.network else []
    options += ["--vram-gb", f"{plans.vram_gb:g}"] if plans.vram_gb else []
    words = ("plans", "apply", str(plans.template), names.dataset.name, *options, "--replace")
    return Command("nnunet-mamba", words, PLANNING)


def _make_command(names: DatasetNames, plans: Plans) -> Command:
    if plans.vram_gb:
        options = ("--network", str(plans.network), "--vram-gb", f"{plans.vram_gb:g}", "--name", plans.name)
        return Command("nnunet-mamba", ("plans", "make", names.dataset.name, *options, "--replace"), PLANNING)
    assert plans.planner is not None
    renamed = PLANS_OF_PLANNER.get(plans.planner) != plans.name
    extra = ("-overwrite_plans_name", plans.name) if renamed else ()
    return Command("nnUNetv2_plan_experiment", ("-d", names.number, "-pl", plans.planner, *extra), PLANNING)


def build_preprocess_job(names: DatasetNames, plans: str, configuration: str) -> Job:
    arguments = ("-d", names.number, "-plans_name", plans, "-c", configuration, "-np", str(count_processes()))
    return Job(
        names.job("preprocess", plans, configuration),
        "preprocess",
        Command("nnUNetv2_preprocess", arguments),
        needs=(names.plan_job(plans),),
        cache_inputs=own_plans_inputs(names, plans),
        threads=count_processes(),
        memory_gb=names.study.memory_gb,
        hours=names.study.hours,
        data=names.data(plans, configuration),
        watched=(names.preprocessed / "splits_final.json",),
    )


def own_plans_inputs(names: DatasetNames, plans: str) -> dict[str, str]:
    """Return the checksum of plans of the user's own as a cache input, and nothing for others."""
    if not names.study.plans[plans].own:
        return {}
    file = names.preprocessed / f"{plans}.json"
    if not file.is_file():
        raise ValueError(f"Plans {plans} have own: true, and {file} does not exist.")
    return {"plans": compute_checksum([file])}


def build_train_job(names: DatasetNames, method: Method, seed: int | None, fold: str, trainer: str) -> Job:
    """Return the training of one fold; `trainer` is the description of the method's trainer."""
    study, folder = names.study, names.fold(method, seed, fold)
    arguments = [names.number, method.configuration, fold, "-tr", method.trainer, "-p", method.plans]
    arguments += ["-device", study.device]
    arguments += ["-num_gpus", str(study.gpus)] if study.gpus > 1 else []
    arguments += ["--npz"] if study.npz else []
    cache_inputs = {"trainer": trainer, "seed": "" if seed is None else str(seed)}
    cache_inputs |= {"gpus": str(study.gpus)} if study.gpus > 1 else {}
    cache_inputs |= {"variables": json.dumps(study.variables, sort_keys=True)} if study.variables else {}
    needs = [names.plan_job(method.plans), names.preprocess_job(method)]
    if method.configuration == CASCADE:
        needs += names.train_jobs(lowres_method(method), seed)
    return Job(
        names.train_job(method, seed, fold),
        "train",
        Command("nnUNetv2_train", tuple(arguments), _training_variables(study, seed)),
        needs=tuple(needs),
        products=(folder / FINAL, folder / "validation" / "summary.json"),
        cache_inputs={**cache_inputs, **own_plans_inputs(names, method.plans)},
        gpus=study.gpus,
        threads=study.threads,
        memory_gb=study.memory_gb,
        hours=study.hours,
        own_folder=folder,
        data=names.data(*names.preprocessed_plans(method)),
    )


def _training_variables(study: Study, seed: int | None) -> dict[str, str]:
    """Return the variables of a training.

    On a CPU the network needs every core, so augmenting in other processes gains nothing.
    """
    variables = {"nnUNet_results": str(study.results(seed)), "NNUNET_MAMBA_SAVE_EVERY": "1"}
    variables |= {"nnUNet_def_n_proc": str(min(study.threads, MOST_PROCESSES))}
    if study.device == "cpu":
        variables |= {"nnUNet_n_proc_DA": "0", "NNUNET_MAMBA_THREADS": str(study.threads)}
    else:
        variables |= {"nnUNet_n_proc_DA": str(max(1, study.threads - 1))}
    if study.batched:
        variables |= dict.fromkeys(("NNUNET_MAMBA_BATCHED_VALIDATION", "NNUNET_MAMBA_ONE_PASS_EXPORT"), "1")
    variables |= {} if seed is None else {"NNUNET_MAMBA_SEED": str(seed)}
    return {**variables, **study.variables}


def build_predict_jobs(names: DatasetNames, method: Method, seed: int | None, test: TestSet) -> list[Job]:
    """Return one job for each part of the test set, which the folds' networks predict together."""
    study, out = names.study, names.predictions(method, seed, test.name)
    arguments = ["-i", str(test.images), "-o", str(out), "-d", names.number, "-tr", method.trainer]
    arguments += ["-c", method.configuration, "-p", method.plans, "-f", *study.folds]
    arguments += ["-device", study.device, *([] if study.mirroring else ["--disable_tta"])]
    needs = names.train_jobs(method, seed)
    if method.configuration == CASCADE:
        arguments += [
            "-prev_stage_predictions",
            str(names.predictions(lowres_method(method), seed, test.name)),
        ]
        needs += names.predict_jobs(lowres_method(method), seed, test)
    program = ("nnunet-mamba", "predict") if study.batched else ("nnUNetv2_predict",)
    variables = {"nnUNet_results": str(study.results(seed)), **study.variables}
    jobs = []
    for part, name in enumerate(names.predict_jobs(method, seed, test)):
        share = ["--continue_prediction"]  # the folder is this job's own: what is in it can be trusted
        if test.parts > 1:
            share = ["-num_parts", str(test.parts), "-part_id", str(part)]
        jobs.append(
            Job(
                name,
                "predict",
                Command(program[0], (*program[1:], *arguments, *share), variables),
                needs=tuple(needs),
                products=(out,),
                cache_inputs={"mirroring": str(study.mirroring)},
                sources=(test.images,),
                gpus=min(study.gpus, 1),
                threads=study.threads,
                memory_gb=study.memory_gb,
                hours=study.hours,
                own_folder=out if test.parts == 1 else None,
            )
        )
    return jobs


def lowres_method(method: Method) -> Method:
    """Return the low-resolution method that a cascade builds on."""
    return Method(method.trainer, method.plans, LOWRES)
