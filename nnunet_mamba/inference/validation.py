"""A trainer's final validation with our predictor and export patched into nnU-Net's module.

nnU-Net's trainer looks up `nnUNetPredictor` and the function that exports a prediction in its module when it
validates; within this context it finds ours. None of its code is copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import ThreadPool
from types import ModuleType
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

from nnunet_mamba.inference.export import export_for_next_stage, export_prediction
from nnunet_mamba.inference.predictor import BatchedPredictor

VALIDATION = "NNUNET_MAMBA_BATCHED_VALIDATION"
ONE_PASS = "NNUNET_MAMBA_ONE_PASS_EXPORT"
YES = ("true", "1", "t")  # as nnU-Net reads its own variables


@contextmanager
def batched_validation(
    log: Callable[[str], object],
    cases: Iterable[str] = (),
    weights: str = "the network",
    *,
    max_exporters: int | None = None,
) -> Iterator[None]:
    """Let a trainer's final validation use our predictor, which raises NonFiniteError for NaN and infinity.

    It predicts one patch at a time as nnU-Net does, or several if VALIDATION is set in the environment. If
    ONE_PASS is set, label maps are exported in one pass, in a thread in place of nnU-Net's processes.

    Args:
        cases: their names, in the order in which they are predicted.
        weights: name of the weights, for messages.
        max_exporters: limit for the processes that write label maps, of which each takes seconds to start;
            None: nnU-Net's number.
    """
    batched = _is_set(VALIDATION)
    if batched:
        log(f"{VALIDATION} is set: this validation predicts several patches at once.")
    predictor = partial(
        BatchedPredictor,
        batch_size=None if batched else 1,
        n_threads=torch.get_num_threads(),  # as it trained
        cases=cases,
        weights=weights,
    )
    n_exporters = min(trainer_module.default_num_processes, max_exporters or sys.maxsize)
    ours: dict[str, Any] = {"nnUNetPredictor": predictor, "default_num_processes": n_exporters}
    if _is_set(ONE_PASS):
        log(f"{ONE_PASS} is set: this validation exports label maps in one pass.")
        ours |= {
            "export_prediction_from_logits": export_prediction,
            "resample_and_save": export_for_next_stage,
            "multiprocessing": _ThreadContext,
        }
    with _patched(trainer_module, **ours):
        yield


class _ThreadContext:
    """Stand-in for the part of multiprocessing that a validation uses: a pool, of one thread, as our export is
    fast."""

    @staticmethod
    def get_context(method: str) -> type[_ThreadContext]:
        return _ThreadContext

    @staticmethod
    def Pool(n_processes: int) -> ThreadPool:
        return ThreadPool(1)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in YES


@contextmanager
def _patched(module: ModuleType, **ours: Any) -> Iterator[None]:
    """Replace names of a module by ours within the context."""
    stock = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(stock)
