"""nnU-Net's prediction and validation with the batched predictor patched into nnU-Net's modules.

nnU-Net's functions look up `nnUNetPredictor` and the function that exports a prediction in their module when
they run; within these contexts they find ours. None of their code is copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.networks.finite import NonFiniteError, NonFiniteWeightsError

VALIDATION = "NNUNET_MAMBA_BATCHED_VALIDATION"
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

    It predicts one patch at a time as nnU-Net does, or several if VALIDATION is set in the environment.

    Args:
        cases: their names, in the order in which they are predicted.
        weights: name of the weights, for messages.
        max_exporters: limit for the processes that write label maps, of which each takes seconds to start;
            None: nnU-Net's number.
    """
    batched = os.environ.get(VALIDATION, "").lower() in YES
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
    with _patched(trainer_module, nnUNetPredictor=predictor, default_num_processes=n_exporters):
        yield


def run_nnunet_predict(
    arguments: Sequence[str],
    on_failure: Callable[[str, str], object],
    *,
    batch_size: int | None = None,
    n_threads: int | None = None,
) -> None:
    """Run `nnUNetv2_predict ARGUMENTS`, or `nnUNetv2_predict_from_modelfolder` if -m is among them.

    Args:
        on_failure: called with a case whose logits are not finite, and a message. The case gets no label map,
            and the next one follows.

    Raises NonFiniteWeightsError if the weights are to blame: every case would fail alike.
    """
    from_folder = "-m" in arguments
    entry = "predict_entry_point_modelfolder" if from_folder else "predict_entry_point"
    predictor = partial(CaseByCasePredictor, on_failure, batch_size=batch_size, n_threads=n_threads)
    ours: dict[str, Any] = {
        "nnUNetPredictor": predictor,
        "export_prediction_from_logits": export_unless_failed,
    }
    with _patched(predict_from_raw_data, **ours), _patched_argv(["nnunet-mamba predict", *arguments]):
        getattr(predict_from_raw_data, entry)()


class CaseByCasePredictor(BatchedPredictor):
    """BatchedPredictor that returns empty logits for a case that fails, so that the next one follows.

    Args:
        on_failure: called with a case that failed, and a message.
        options: BatchedPredictor's, as `args`.
    """

    def __init__(self, on_failure: Callable[[str, str], object], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_failure = on_failure

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        try:
            return super().predict_logits_from_preprocessed_data(data)
        except NonFiniteWeightsError:
            raise
        except NonFiniteError as error:
            self.on_failure(self.case, str(error))
            return torch.empty(0)


def export_unless_failed(
    logits: Any, properties: Any, configuration: Any, plans: Any, dataset: dict, target: str, *others: Any
) -> None:
    """Export logits as nnU-Net does; if they are empty, remove the files of an earlier prediction."""
    if len(logits):
        export_prediction_from_logits(logits, properties, configuration, plans, dataset, target, *others)
        return
    for ending in (dataset["file_ending"], ".npz", ".pkl"):
        Path(f"{target}{ending}").unlink(missing_ok=True)


@contextmanager
def _patched(module: ModuleType, **ours: Any) -> Iterator[None]:
    """Replace names of a module by ours within the context."""
    stock = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(stock)


@contextmanager
def _patched_argv(arguments: list[str]) -> Iterator[None]:
    """Replace sys.argv within the context."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
