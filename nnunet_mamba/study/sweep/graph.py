"""From a study to its jobs, in an order in which they could run one after the other.

    convert -> split -> fingerprint -> plan -> preprocess -> train -> evaluate -> compare, report
                                                                  -> predict -> evaluate -> compare, report

Per dataset, plans are made and data preprocessed one after the other, and before any training: nnU-Net clears
the folder of preprocessed data that it is about to fill, and several plans may share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from nnunet_mamba.study.sweep import preparation, training
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.judging import judge
from nnunet_mamba.study.sweep.names import CROSSVAL, Names
from nnunet_mamba.study.sweep.study import CASCADE, Plans, Study


def jobs_of(study: Study, trainers: Mapping[str, str]) -> list[Job]:
    """All jobs. `trainers` describes each trainer by name, in a text that changes when the training does."""
    jobs: list[Job] = []
    for dataset in study.datasets:
        names = Names(study, dataset)
        prepared = _prepare(names)
        after = tuple(job.name for job in prepared if job.kind == "preprocess")
        jobs += [*prepared, *_train_and_predict(names, trainers, after), *_judge(names)]
    assert len({job.name for job in jobs}) == len(jobs), "names of jobs are unique"
    return jobs


def _prepare(names: Names) -> list[Job]:
    study, jobs = names.study, [preparation.convert(names)] if names.dataset.convert else []
    jobs += [preparation.split(names), preparation.fingerprint(names)]
    one_by_one: list[Job] = []
    for plans in _in_order_of_making(study.plans):
        if not plans.own:
            one_by_one.append(preparation.plan(names, plans, _names(one_by_one)))
    wanted = dict.fromkeys(names.preprocessed_of(method) for method in study.methods)
    for name, configuration in wanted:
        one_by_one.append(preparation.preprocess(names, name, configuration, _names(one_by_one)))
    return jobs + one_by_one


def _train_and_predict(names: Names, trainers: Mapping[str, str], after: tuple[str, ...]) -> list[Job]:
    """One fold of all methods after the other: what comes first in the list runs first."""
    study, jobs = names.study, list[Job]()
    for low in (True, False):  # cascades come after all folds of their low resolution
        methods = [method for method in study.methods if (method.configuration != CASCADE) == low]
        for fold, seed, method in product(study.folds, study.seeds, methods):
            jobs.append(training.train(names, method, seed, fold, trainers[method.trainer], after))
        for test, seed, method in product(names.dataset.tests, study.seeds, methods):
            jobs += training.predict(names, method, seed, test)
    return jobs


def _judge(names: Names) -> list[Job]:
    tests = [test.name for test in names.dataset.tests if test.labels]
    if set(names.study.folds) != {"all"}:  # which has seen every case
        tests.insert(0, CROSSVAL)
    return [
        job for test in tests for protocol in names.study.protocols for job in judge(names, test, protocol)
    ]


def _in_order_of_making(table: Mapping[str, Plans]) -> list[Plans]:
    """Plans before those that are made from them."""
    order: list[Plans] = []

    def visit(plans: Plans) -> None:
        if plans.template:
            visit(table[plans.source])
        if plans not in order:
            order.append(plans)

    for plans in table.values():
        visit(plans)
    return order


def _names(jobs: list[Job]) -> tuple[str, ...]:
    return tuple(job.name for job in jobs)
