"""Bootstrap of one sample: the difference to a method that has 0 everywhere."""

import numpy as np

from nnunet_mamba.study.statistics.bootstrap import Replicates, Trainings, bootstrap_difference


def bootstrap_mean(values, patients, *, n_bootstrap=1000, seed=0) -> Replicates:
    folds = [""] * len(values)
    method, zero = (Trainings(each[None], folds) for each in (values, np.zeros_like(values)))
    return bootstrap_difference(method, zero, patients, n_bootstrap=n_bootstrap, seed=seed)


def mean_interval(values, patients, *, n_bootstrap=1000, seed=0, level=0.95):
    return bootstrap_mean(values, patients, n_bootstrap=n_bootstrap, seed=seed).interval(level)
