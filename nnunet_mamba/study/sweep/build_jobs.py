"""The jobs of a study, in an order in which they could run one after the other; those that evaluate, in full.

convert -> split -> fingerprint -> plan -> preprocess -> train -> evaluate -> compare, report
                                                              -> predict, validate -> evaluate -> ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from nnunet_mamba.nnunet.commands import Command, count_processes
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.sweep import training_jobs
from nnunet_mamba.study.sweep.condition_jobs import add_conditions, build_validate_jobs
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.study import CASCADE, CROSSVAL, DatasetNames, Plans, Study


def build_jobs(study: Study, trainers: Mapping[str, str]) -> list[Job]:
    """Return all jobs. `trainers` maps each trainer to a text that changes when its training does."""
    jobs: list[Job] = []
    for dataset in study.datasets:
        names = DatasetNames(study, dataset)
        jobs += [*_preparation_jobs(names), *_training_jobs(names, trainers)]
        jobs += build_validate_jobs(names, trainers)
        jobs += _evaluation_jobs(names, add_conditions(study, trainers))
    assert len({job.name for job in jobs}) == len(jobs), "names of jobs are unique"
    return jobs


def _preparation_jobs(names: DatasetNames) -> list[Job]:
    study, jobs = names.study, [training_jobs.build_convert_job(names)] if names.dataset.convert else []
    jobs += [training_jobs.build_split_job(names), training_jobs.build_fingerprint_job(names)]
    made = [plans for plans in _sort_by_source(study.plans) if not plans.own]
    jobs += [training_jobs.build_plan_job(names, plans) for plans in made]
    wanted = dict.fromkeys(names.preprocessed_plans(method) for method in study.methods)
    return jobs + [training_jobs.build_preprocess_job(names, *data) for data in wanted]


def _training_jobs(names: DatasetNames, trainers: Mapping[str, str]) -> list[Job]:
    """Return trainings and predictions, one fold of all methods after the other, as they are to run."""
    study, jobs = names.study, list[Job]()
    for low in (True, False):  # cascades come after all folds of their low resolution
        methods = [method for method in study.methods if (method.configuration != CASCADE) == low]
        for fold, seed, method in product(study.folds, study.seeds, methods):
            jobs.append(training_jobs.build_train_job(names, method, seed, fold, trainers[method.trainer]))
        for test, seed, method in product(names.dataset.tests, study.seeds, methods):
            jobs += training_jobs.build_predict_jobs(names, method, seed, test)
    return jobs


def _sort_by_source(table: Mapping[str, Plans]) -> list[Plans]:
    """Return plans in an order in which each comes after those that it is made from."""
    order: list[Plans] = []

    def visit(plans: Plans) -> None:
        if plans.template:
            visit(table[plans.source])
        if plans not in order:
            order.append(plans)

    for plans in table.values():
        visit(plans)
    return order


def _evaluation_jobs(names: DatasetNames, validated: Sequence[Method]) -> list[Job]:
    """Return jobs that score, compare and report, on the folds' own cases and on labelled test sets.

    `validated` are the methods that predict the folds' own cases, under conditions too.
    """
    tests = [test.name for test in names.dataset.tests if test.labels]
    if set(names.study.folds) != {"all"}:  # fold all has trained on every case
        tests.insert(0, CROSSVAL)
    return [
        job
        for test in tests
        for protocol in names.study.protocols
        for job in _evaluate_and_compare(
            names, validated if test == CROSSVAL else names.study.methods, test, protocol
        )
    ]


def _evaluate_and_compare(
    names: DatasetNames, methods: Sequence[Method], test: str, protocol: str
) -> list[Job]:
    """Score all methods by one protocol; where there are two, compare them and write the report."""
    study, jobs, tables = names.study, list[Job](), list[Job]()
    for method in methods:
        tables += [_evaluate(names, method, seed, test, protocol) for seed in study.seeds]
    jobs += tables
    if len(methods) > 1:
        metrics = study.metrics or ("dice",)
        jobs += [_compare(names, test, protocol, metric, tables) for metric in metrics]
    return [*jobs, _report(names, test, protocol, tables)]


def _evaluate(names: DatasetNames, method: Method, seed: int | None, test: str, protocol: str) -> Job:
    study, out = names.study, names.table(method, seed, test, protocol)
    options = ["--protocol", protocol]
    options += ["--metrics", *study.metrics] if study.metrics else []
    options += ["--tolerance-mm", *study.tolerance_mm] if study.tolerance_mm else []
    if test == CROSSVAL:
        inputs = ["--results", *(str(names.fold(method, seed, fold)) for fold in study.folds)]
        needs, labels = names.validation_jobs(method, seed), tuple[Path, ...]()
    else:
        inputs, needs, labels = _test_set_inputs(names, method, seed, test)
    arguments = ("evaluate", *inputs, *options, "--out", str(out), "-j", str(count_processes()))
    return Job(
        names.evaluate_job(method, seed, test, protocol),
        "evaluate",
        Command("nnunet-mamba", arguments),
        needs=tuple(needs),
        products=(out,),
        cache_inputs={"options": " ".join(options), **({} if seed is None else {"seed": str(seed)})},
        sources=labels,
        threads=count_processes(),
        memory_gb=study.memory_gb,
    )


def _test_set_inputs(
    names: DatasetNames, method: Method, seed: int | None, name: str
) -> tuple[list[str], list[str], tuple[Path, ...]]:
    """Return the arguments that say what is scored, the jobs that predicted it, and the reference labels."""
    test = next(each for each in names.dataset.tests if each.name == name)
    assert test.labels is not None
    origin = {"dataset": names.dataset.name, "trainer": method.trainer, "plans": method.plans}
    origin |= {"configuration": method.configuration, "fold": "test"}
    origin |= {} if seed is None else {"seed": str(seed)}
    inputs = [str(names.predictions(method, seed, name)), str(test.labels), "--origin"]
    inputs += [f"{column}={text}" for column, text in origin.items()]
    return inputs, names.predict_jobs(method, seed, test), (test.labels,)


def _compare(names: DatasetNames, test: str, protocol: str, metric: str, tables: Sequence[Job]) -> Job:
    study = names.study
    out = study.out / "comparison" / names.dataset.name / test / protocol / metric
    options = ["--metric", metric, *_comparison_options(names)]
    options += ["--margin", str(study.margins[metric])] if metric in study.margins else []
    return _summary_job(names, "compare", (test, protocol, metric), options, out, tables)


def _report(names: DatasetNames, test: str, protocol: str, tables: Sequence[Job]) -> Job:
    """Return the job that writes the report; its curves, times and pictures are those of the first seed."""
    study, seed = names.study, names.study.seeds[0]
    options = ["--dataset", names.dataset.name, *_comparison_options(names)]
    options += ["--results", str(study.results(seed) / names.dataset.name)]
    for each in names.dataset.tests:
        if each.name == test:
            folders = (str(names.predictions(method, seed, test)) for method in study.methods)
            options += ["--predictions", *folders, "--references", str(each.labels)]
            options += ["--images", str(each.images)]
    wanted = [metric for metric in study.margins if metric in (study.metrics or study.margins)]
    options += ["--margin", *(f"{metric}={study.margins[metric]}" for metric in wanted)] if wanted else []
    out = study.out / "report" / names.dataset.name / f"{test}.{protocol}"
    return _summary_job(names, "report", (test, protocol), options, out, tables)


def _comparison_options(names: DatasetNames) -> list[str]:
    options = ["--group", names.dataset.group] if names.dataset.group else []
    return options + (["--baseline", names.study.baseline] if names.study.baseline else [])


def _summary_job(
    names: DatasetNames,
    kind: str,
    parts: Sequence[str],
    options: Sequence[str],
    out: Path,
    tables: Sequence[Job],
) -> Job:
    return Job(
        names.job(kind, *parts),
        kind,
        Command("nnunet-mamba", (kind, *_products(tables), *options, "--out", str(out))),
        needs=tuple(job.name for job in tables),
        products=(out,),
        cache_inputs={"options": " ".join(options)},
    )


def _products(jobs: Sequence[Job]) -> list[str]:
    return [str(product) for job in jobs for product in job.products]
