"""From a study's file to the graph of a run, with everything refused that cannot go well before it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.io.cpu import passive_waiting
from nnunet_mamba.io.messages import unknown
from nnunet_mamba.nnunet.commands import EXTERNAL, n_processes, trainer_folders
from nnunet_mamba.study.sweep.frozen import Frozen, freeze
from nnunet_mamba.study.sweep.graph import jobs_of
from nnunet_mamba.study.sweep.leftovers import StrangersError, holds_work, mark_of, missing, strangers
from nnunet_mamba.study.sweep.read import read_study
from nnunet_mamba.study.sweep.study import Study
from nnunet_mamba.study.sweep.trainers import describe_trainers


def begin(file: Path, *, adopt: bool = False, seed: int | None = None) -> Frozen:
    """The graph of the study as things are now; its variables are set. `seed` replaces its seeds."""
    study = read_study(file)
    study = study if seed is None else replace(study, seeds=(seed,))
    check_words(study)
    folders = os.pathsep.join([*map(str, study.trainers_from), trainer_folders()])
    variables = {name: str(path) for name, path in study.folders.items()}
    variables |= {EXTERNAL: folders, "nnUNet_def_n_proc": str(n_processes())}
    variables |= passive_waiting()
    names = [method.trainer for method in study.methods]
    trainers = describe_trainers(names, folders, study.out / "trainers.json")
    _refuse_deaf(study, trainers)
    os.environ.update(variables)
    return freeze(study.name, study.out, variables, jobs_of(study, trainers), adopt)


def check_words(study: Study) -> None:
    """ValueError for names of metrics, protocols, templates, splits and a baseline that nobody knows."""
    from nnunet_mamba.nnunet.templates import load_template
    from nnunet_mamba.study.datasets.specs import get_spec
    from nnunet_mamba.study.datasets.splits import find_split
    from nnunet_mamba.study.evaluation import METRICS, PROTOCOLS
    from nnunet_mamba.study.statistics.methods import Method, choose_baseline

    _require("metric", study.metrics, METRICS)
    _require("protocol", study.protocols, PROTOCOLS)
    for plans in study.plans.values():
        if plans.template:
            load_template(plans.template)
    for dataset in study.datasets:
        if dataset.convert:
            release = get_spec(dataset.convert.name)[0]
            find_split(dataset.split or "5fold", release)
    if study.baseline:
        methods = [Method(each.trainer, each.plans, each.configuration) for each in study.methods]
        choose_baseline(methods, study.baseline)


def _require(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(unknown(kind, name, known))


def _refuse_deaf(study: Study, trainers: Mapping[str, str]) -> None:
    """Trainers that would not hear of a seed: those that are not ours."""
    deaf = [name for name, description in trainers.items() if "settings" not in json.loads(description)]
    if deaf and study.seeds != (None,):
        raise ValueError(
            f"{', '.join(deaf)} cannot be seeded; for nnU-Net's own network and recipe take "
            "nnUNetTrainerControl, or leave the seeds out."
        )


def refuse_strangers(frozen: Frozen) -> None:
    """StrangersError for trainings and plans that no sweep made, and this one would replace."""
    found = [
        str(job.own_folder or job.products[0])
        for job in frozen.jobs.values()
        if not frozen.layout.read_record(job.name)
        and (
            (job.own_folder and not mark_of(job.own_folder) and holds_work(job.own_folder, job.kind))
            or (job.kind == "plan" and not missing(job))
        )
    ]
    if found and not frozen.adopt:
        raise StrangersError(
            strangers(found) + "\nPlans of your own can also be named in the study: own: true"
        )
