"""Start of a run: from a study to its graph, with checks of all that can be wrong beforehand."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import nnunet_mamba
from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import get_passive_wait_variables
from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.nnunet.catalogue import NOT_FOUND, format_unknown_trainer
from nnunet_mamba.nnunet.commands import EXTERNAL, count_processes, get_trainer_folders
from nnunet_mamba.study.sweep.build_jobs import build_jobs
from nnunet_mamba.study.sweep.existing_results import (
    UnmanagedResultsError,
    describe_unmanaged,
    has_results,
    missing_products,
    read_marker,
)
from nnunet_mamba.study.sweep.run_graph import FILE, RunGraph, build_run_graph, read_run_graph
from nnunet_mamba.study.sweep.study import ConvertArguments, Study


def start(study: Study, *, adopt: bool = False) -> RunGraph:
    """Return the graph of the study as things are now, and set its variables."""
    check_folder(study.out)
    check_names(study)
    folders = os.pathsep.join([*map(str, study.trainers_from), get_trainer_folders()])
    variables = {name: str(path) for name, path in study.folders.items()}
    variables |= {EXTERNAL: folders, "nnUNet_def_n_proc": str(count_processes())}
    variables |= get_passive_wait_variables()
    names = [method.trainer for method in study.methods]
    trainers = describe_trainers(names, folders, study.out / "trainers.json")
    check_seeds(study, trainers)
    os.environ.update(variables)
    return build_run_graph(study.name, study.out, variables, build_jobs(study, trainers), adopt)


def check_folder(out: Path) -> None:
    """Raise ValueError for a folder of another version of this package, or of a quickstart."""
    if (out / FILE).is_file() and "train" in read_run_graph(out).jobs:  # those of a study name the dataset
        raise ValueError(f"{out} holds a quickstart; choose another `out`.")


def check_names(study: Study) -> None:
    """Raise ValueError for unknown names of metrics, protocols, templates, splits and the baseline, for
    margins of metrics that are not computed, and for tolerances that are none."""
    from nnunet_mamba.nnunet.templates import load_template
    from nnunet_mamba.study.evaluation import METRICS, PROTOCOLS
    from nnunet_mamba.study.evaluation.config import parse_tolerances
    from nnunet_mamba.study.statistics.methods import choose_baseline

    _check_known("metric", (*study.metrics, *study.margins), METRICS)
    _check_known("protocol", study.protocols, PROTOCOLS)
    if study.metrics and (unscored := sorted(set(study.margins) - set(study.metrics))):
        raise ValueError(
            f"margins name {', '.join(unscored)}, by which nothing is scored; expected some of the metrics: "
            f"{', '.join(study.metrics)}."
        )
    parse_tolerances(study.tolerance_mm)
    for plans in study.plans.values():
        if plans.template:
            load_template(plans.template)
    for dataset in study.datasets:
        if dataset.convert:
            _check_conversion(dataset.convert, dataset.split)
    if study.baseline:
        choose_baseline(study.methods, study.baseline)


def _check_conversion(convert: ConvertArguments, split: str | None) -> None:
    """Raise ValueError for unknown names of releases and splits, and for a release without sources."""
    from nnunet_mamba.study.datasets.specs import LONGRANGE, get_spec
    from nnunet_mamba.study.datasets.splits import find_split

    if convert.name != LONGRANGE:
        find_split(split or "5fold", get_spec(convert.name)[0])
    elif split not in (None, "5fold"):
        raise ValueError(
            f"convert {LONGRANGE} has nnU-Net's five folds, not the split {split}; leave it out."
        )
    if (convert.name == LONGRANGE) == bool(convert.sources):
        raise ValueError(
            f"convert {convert.name} has {len(convert.sources)} sources; expected some for a release, and "
            f"none for {LONGRANGE}, which is made here."
        )


def _check_known(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(format_unknown_name(kind, name, known))


def check_seeds(study: Study, trainers: Mapping[str, str]) -> None:
    """Raise ValueError for a study with seeds whose trainers ignore them: trainers that are not ours."""
    unseeded = [name for name, description in trainers.items() if "settings" not in json.loads(description)]
    if unseeded and study.seeds != (None,):
        raise ValueError(
            f"{', '.join(unseeded)} cannot be seeded; for nnU-Net's own network and recipe take "
            "nnUNetTrainerControl, or leave the seeds out."
        )


def check_unmanaged_results(graph: RunGraph) -> None:
    """Raise UnmanagedResultsError for trainings and plans that no sweep made, and this one would replace."""
    found = [
        str(job.own_folder or job.products[0])
        for job in graph.jobs.values()
        if not graph.layout.read_record(job.name)
        and (
            (job.own_folder and not read_marker(job.own_folder) and has_results(job.own_folder, job.kind))
            or (job.kind == "plan" and not missing_products(job))
        )
    ]
    if found and not graph.adopt:
        raise UnmanagedResultsError(
            describe_unmanaged(found) + "\nPlans of your own can also be named in the study: own: true"
        )


def describe_trainers(names: Iterable[str], folders: str, cache: Path) -> dict[str, str]:
    """Return for each trainer a text that changes when its training does.

    nnU-Net is asked in a process of its own, since importing it takes seconds; `folders` is the value of
    nnUNet_extTrainer. The answer is kept in the file `cache` for as long as no source file changes.
    ValueError for trainers that nnU-Net does not find or that cannot be imported.
    """
    names, sources = sorted(set(names)), _hash_sources(folders)
    known = _read_cache(cache, sources)
    if not set(names) <= set(known):
        known = _ask_nnunet(names, folders)
        write_json(cache, {"state": sources, "trainers": known})
    errors = [f"{name}: {_explain(name, known[name]['error'])}" for name in names if "error" in known[name]]
    if errors:
        raise ValueError("nnU-Net cannot use these trainers:\n  " + "\n  ".join(errors))
    return {name: json.dumps(known[name], sort_keys=True) for name in names}


def _explain(name: str, error: object) -> str:
    """Return nnU-Net's error; for a name that it does not find, similar names."""
    return (
        f"nnU-Net does not find it. {format_unknown_trainer(name)}" if NOT_FOUND in str(error) else str(error)
    )


def _ask_nnunet(names: Sequence[str], folders: str) -> dict[str, dict[str, object]]:
    argv = [sys.executable, "-m", "nnunet_mamba.trainers.describe", *names]
    environment = {**os.environ, EXTERNAL: folders}
    asked = subprocess.run(argv, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if asked.returncode != 0 or not asked.stdout.strip():
        tail = (asked.stderr.strip() or "no output").splitlines()[-1]
        raise ValueError(f"nnU-Net could not be asked for its trainers: {tail}")
    answer: dict[str, dict[str, object]] = json.loads(asked.stdout.strip().splitlines()[-1])
    return answer


def _read_cache(cache: Path, sources: str) -> Mapping[str, Mapping[str, object]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    trainers: dict[str, dict[str, object]] = content["trainers"] if content["state"] == sources else {}
    return {name: found for name, found in trainers.items() if "error" not in found}


def _hash_sources(folders: str) -> str:
    """Return a hash of all source files that may describe a trainer: their names, sizes and times."""
    places = [Path(nnunet_mamba.__path__[0]), *(Path(text) for text in folders.split(os.pathsep) if text)]
    files = sorted(file for place in places for file in place.rglob("*") if file.suffix in (".py", ".json"))
    lines = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join([version("nnunetv2"), *lines]).encode()).hexdigest()
