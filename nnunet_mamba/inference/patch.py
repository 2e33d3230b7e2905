"""The batched predictor in the place of nnU-Net's, within nnU-Net's own functions.

Those functions look up `nnUNetPredictor`, and what exports a prediction, in their module when they run; while
one of these contexts is open they find ours. Nothing of them is copied.
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
    most_exporters: int | None = None,
) -> Iterator[None]:
    """Let a trainer's final validation predict with our predictor, which refuses logits that are not finite:
    one patch at a time as nnU-Net does, or several if the environment asks for it.

    Args:
        cases: their names, in the order in which they are predicted.
        weights: what predicts, for messages.
        most_exporters: processes that write label maps, if fewer than nnU-Net's number of them; each takes
            seconds to start.
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
    n_exporters = min(trainer_module.default_num_processes, most_exporters or sys.maxsize)
    with _standing_in(trainer_module, nnUNetPredictor=predictor, default_num_processes=n_exporters):
        yield


def run_nnunets_predict(
    arguments: Sequence[str],
    on_failure: Callable[[str, str], object],
    *,
    batch_size: int | None = None,
    n_threads: int | None = None,
) -> None:
    """`nnUNetv2_predict ARGUMENTS`, or `nnUNetv2_predict_from_modelfolder` where -m is among them.

    Args:
        on_failure: gets a case whose logits are not finite, and what there is to say of it. It has no label
            map then, and the next case follows.

    Raises NonFiniteWeightsError where the weights are to blame: every case would fail alike.
    """
    from_folder = "-m" in arguments
    entry = "predict_entry_point_modelfolder" if from_folder else "predict_entry_point"
    predictor = partial(CaseByCasePredictor, on_failure, batch_size=batch_size, n_threads=n_threads)
    ours: dict[str, Any] = {
        "nnUNetPredictor": predictor,
        "export_prediction_from_logits": export_unless_failed,
    }
    with _standing_in(predict_from_raw_data, **ours), _argv(["nnunet-mamba predict", *arguments]):
        getattr(predict_from_raw_data, entry)()


class CaseByCasePredictor(BatchedPredictor):
    """Returns no logits at all for a case that fails, so that the next one follows.

    Args:
        on_failure: gets a case that failed, and what there is to say of it.
        others: BatchedPredictor's.
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
    """nnU-Net's export; where there are no logits, remove what an earlier prediction of the case has left."""
    if len(logits):
        export_prediction_from_logits(logits, properties, configuration, plans, dataset, target, *others)
        return
    for ending in (dataset["file_ending"], ".npz", ".pkl"):
        Path(f"{target}{ending}").unlink(missing_ok=True)


@contextmanager
def _standing_in(module: ModuleType, **ours: Any) -> Iterator[None]:
    """Within it the module has these in place of its own of the same names."""
    stock = {name: getattr(module, name) for name in ours}
    vars(module).update(ours)
    try:
        yield
    finally:
        vars(module).update(stock)


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
