"""Jobs that score, compare and report: on the folds' own cases (crossval), on test sets with labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command, n_processes
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.names import CROSSVAL, Names
from nnunet_mamba.study.sweep.study import Method


def judge(names: Names, test: str, protocol: str) -> list[Job]:
    """Score all methods by one protocol; where there are two, compare them and write the page."""
    study, jobs, tables = names.study, list[Job](), list[Job]()
    for method in study.methods:
        of_seeds = [_evaluate(names, method, seed, test, protocol) for seed in study.seeds]
        of_method = (
            of_seeds if len(of_seeds) == 1 else [*of_seeds, _average(names, method, test, protocol, of_seeds)]
        )
        jobs += of_method
        tables.append(of_method[-1])
    if len(tables) > 1:
        metrics = study.metrics or ("dice",)
        jobs += [_compare(names, test, protocol, metric, tables) for metric in metrics]
        jobs.append(_report(names, test, protocol, tables))
    return jobs


def _evaluate(names: Names, method: Method, seed: int | None, test: str, protocol: str) -> Job:
    study, out = names.study, names.table(method, seed, test, protocol)
    options = ["--protocol", protocol]
    options += ["--metrics", *study.metrics] if study.metrics else []
    options += ["--tolerance-mm", *study.tolerance_mm] if study.tolerance_mm else []
    if test == CROSSVAL:
        what = ["--results", *(str(names.fold(method, seed, fold)) for fold in study.folds)]
        needs, labels = names.train_jobs(method, seed), tuple[Path, ...]()
    else:
        what, needs, labels = _of_test_set(names, method, seed, test)
    arguments = ("evaluate", *what, *options, "--out", str(out), "-j", str(n_processes()))
    return Job(
        names.evaluate_job(method, seed, test, protocol),
        "evaluate",
        Command("nnunet-mamba", arguments),
        needs=tuple(needs),
        products=(out,),
        identity={"options": " ".join(options)},
        sources=labels,
        threads=n_processes(),
        memory_gb=study.memory_gb,
    )


def _of_test_set(
    names: Names, method: Method, seed: int | None, name: str
) -> tuple[list[str], list[str], tuple[Path, ...]]:
    """What is scored, the jobs that made it, and the references."""
    test = next(each for each in names.dataset.tests if each.name == name)
    assert test.labels is not None
    origin = {"dataset": names.dataset.name, "trainer": method.trainer, "plans": method.plans}
    origin |= {"configuration": method.configuration, "fold": "test"}
    what = [str(names.predictions(method, seed, name)), str(test.labels), "--origin"]
    what += [f"{column}={text}" for column, text in origin.items()]
    return what, names.predict_jobs(method, seed, test), (test.labels,)


def _average(names: Names, method: Method, test: str, protocol: str, of_seeds: Sequence[Job]) -> Job:
    out = names.table(method, None, test, protocol)
    arguments = ("sweep", "average", *_files(of_seeds), "--out", str(out))
    return Job(
        names.job("average", test, method, protocol),
        "average",
        Command("nnunet-mamba", arguments),
        needs=tuple(job.name for job in of_seeds),
        products=(out,),
    )


def _compare(names: Names, test: str, protocol: str, metric: str, tables: Sequence[Job]) -> Job:
    out = names.study.out / "comparison" / names.dataset.name / test / protocol / metric
    options = ["--metric", metric, *_chosen(names)]
    return _conclusion(names, "compare", (test, protocol, metric), options, out, tables)


def _report(names: Names, test: str, protocol: str, tables: Sequence[Job]) -> Job:
    out = names.study.out / "report" / names.dataset.name / f"{test}.{protocol}"
    options = ["--dataset", names.dataset.name, *_chosen(names)]
    if test == CROSSVAL:  # curves, times and worst cases are those of the first seed
        results = names.study.results(names.study.seeds[0])
        options += ["--results", str(results / names.dataset.name)]
    return _conclusion(names, "report", (test, protocol), options, out, tables)


def _chosen(names: Names) -> list[str]:
    chosen = ["--group", names.dataset.group] if names.dataset.group else []
    return chosen + (["--baseline", names.study.baseline] if names.study.baseline else [])


def _conclusion(
    names: Names, kind: str, parts: Sequence[str], options: Sequence[str], out: Path, tables: Sequence[Job]
) -> Job:
    return Job(
        names.job(kind, *parts),
        kind,
        Command("nnunet-mamba", (kind, *_files(tables), *options, "--out", str(out))),
        needs=tuple(job.name for job in tables),
        products=(out,),
        identity={"options": " ".join(options)},
    )


def _files(jobs: Sequence[Job]) -> list[str]:
    return [str(product) for job in jobs for product in job.products]
