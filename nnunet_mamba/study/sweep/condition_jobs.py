"""Jobs that validate trained folds again under the conditions of a study, as methods TRAINER@NAME."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product

from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.study import Condition, DatasetNames, Study


def build_validate_jobs(names: DatasetNames, trainers: Mapping[str, str]) -> list[Job]:
    """Return the jobs, one fold of all methods after the other; `trainers` maps each to its description."""
    study = names.study
    return [
        _build_validate_job(names, method, condition, seed, fold)
        for fold, seed, method in product(study.folds, study.seeds, study.methods)
        for condition in choose_conditions(study, method, trainers)
    ]


def add_conditions(study: Study, trainers: Mapping[str, str]) -> list[Method]:
    """Return the methods of a study, each followed by itself under the conditions that it can have."""
    return [
        each
        for method in study.methods
        for each in (method, *(method.under(one.name) for one in choose_conditions(study, method, trainers)))
    ]


def choose_conditions(study: Study, method: Method, trainers: Mapping[str, str]) -> list[Condition]:
    """Return the conditions that a method can have: only a network with mixers can be without them."""
    network = json.loads(trainers[method.trainer]).get("network")
    has_mixer = isinstance(network, dict) and bool(network.get("mixer"))
    return [each for each in study.conditions if has_mixer or not each.needs_mixer]


def _build_validate_job(
    names: DatasetNames, method: Method, condition: Condition, seed: int | None, fold: str
) -> Job:
    study, conditioned = names.study, method.under(condition.name)
    folder = names.fold(conditioned, seed, fold)
    arguments = ["validate", "-d", names.number, "-c", method.configuration, "-tr", method.trainer]
    arguments += ["-p", method.plans, "-f", fold, "--name", condition.name, *condition.options]
    # other folds are made anew by jobs of their own; what is in this one's folder can be trusted
    arguments += ["-device", study.device, "--mixed", "--continue_prediction"]
    return Job(
        names.validate_job(conditioned, seed, fold),
        "validate",
        Command(
            "nnunet-mamba",
            tuple(arguments),
            {"nnUNet_results": str(study.results(seed)), **study.variables},
        ),
        needs=(names.train_job(method, seed, fold),),
        products=(folder / "validation",),
        cache_inputs={"conditions": " ".join(condition.options)},
        gpus=min(study.gpus, 1),
        threads=study.threads,
        memory_gb=study.memory_gb,
        hours=study.hours,
        own_folder=folder,
    )
