"""Jobs that train and that predict."""

from __future__ import annotations

import json

from nnunet_mamba.nnunet.commands import MOST_PROCESSES, Command
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.names import Names
from nnunet_mamba.study.sweep.preparation import own_plans
from nnunet_mamba.study.sweep.study import CASCADE, LOWRES, Method, Study, TestSet


def train(
    names: Names, method: Method, seed: int | None, fold: str, trainer: str, after: tuple[str, ...]
) -> Job:
    """`trainer` is its description."""
    study, folder = names.study, names.fold(method, seed, fold)
    arguments = [names.number, method.configuration, fold, "-tr", method.trainer, "-p", method.plans]
    arguments += ["-device", study.device]
    arguments += ["-num_gpus", str(study.gpus)] if study.gpus > 1 else []
    arguments += ["--npz"] if study.npz else []
    identity = {"trainer": trainer, "seed": "" if seed is None else str(seed)}
    identity |= {"gpus": str(study.gpus)} if study.gpus > 1 else {}
    identity |= {"variables": json.dumps(study.variables, sort_keys=True)} if study.variables else {}
    needs = [names.plan_job(method.plans), names.preprocess_job(method)]
    if method.configuration == CASCADE:
        needs += names.train_jobs(lowres(method), seed)
    return Job(
        names.train_job(method, seed, fold),
        "train",
        Command("nnUNetv2_train", tuple(arguments), _variables(study, seed)),
        needs=tuple(needs),
        after=after,
        products=(folder / "checkpoint_final.pth", folder / "validation" / "summary.json"),
        identity={**identity, **own_plans(names, method.plans)},
        gpus=study.gpus,
        threads=study.threads,
        memory_gb=study.memory_gb,
        hours=study.hours,
        own_folder=folder,
        dataset=names.raw,
    )


def _variables(study: Study, seed: int | None) -> dict[str, str]:
    """On a CPU the network needs every core, so augmenting in other processes gains nothing."""
    variables = {"nnUNet_results": str(study.results(seed)), "NNUNET_MAMBA_SAVE_EVERY": "1"}
    variables |= {"nnUNet_def_n_proc": str(min(study.threads, MOST_PROCESSES))}
    if study.device == "cpu":
        variables |= {"nnUNet_n_proc_DA": "0", "NNUNET_MAMBA_THREADS": str(study.threads)}
    else:
        variables |= {"nnUNet_n_proc_DA": str(max(1, study.threads - 1))}
    variables |= {"NNUNET_MAMBA_BATCHED_VALIDATION": "1"} if study.batched else {}
    variables |= {} if seed is None else {"NNUNET_MAMBA_SEED": str(seed)}
    return {**variables, **study.variables}


def predict(names: Names, method: Method, seed: int | None, test: TestSet) -> list[Job]:
    """One job for each part of the test set; the folds' networks together."""
    study, out = names.study, names.predictions(method, seed, test.name)
    arguments = ["-i", str(test.images), "-o", str(out), "-d", names.number, "-tr", method.trainer]
    arguments += ["-c", method.configuration, "-p", method.plans, "-f", *study.folds]
    arguments += ["-device", study.device, *([] if study.mirroring else ["--disable_tta"])]
    needs = names.train_jobs(method, seed)
    if method.configuration == CASCADE:
        arguments += ["-prev_stage_predictions", str(names.predictions(lowres(method), seed, test.name))]
        needs += names.predict_jobs(lowres(method), seed, test)
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
                identity={"mirroring": str(study.mirroring)},
                sources=(test.images,),
                gpus=min(study.gpus, 1),
                threads=study.threads,
                memory_gb=study.memory_gb,
                hours=study.hours,
                own_folder=out if test.parts == 1 else None,
            )
        )
    return jobs


def lowres(method: Method) -> Method:
    """What a cascade begins with."""
    return Method(method.trainer, method.plans, LOWRES)
