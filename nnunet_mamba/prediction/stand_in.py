"""The batched predictor in the place of nnU-Net's, within nnU-Net's own functions.

Those functions look up `nnUNetPredictor` in their module when they run; while one of these contexts is open
they find ours. Nothing of them is copied.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

from nnunet_mamba.prediction.predictor import BatchedPredictor

VALIDATION = "NNUNET_MAMBA_BATCHED_VALIDATION"
YES = ("true", "1", "t")  # as nnU-Net reads its own variables


@contextmanager
def batched_validation(log: Callable[[str], object]) -> Iterator[None]:
    """Let a trainer's final validation predict in batches, if the environment asks for it."""
    if os.environ.get(VALIDATION, "").lower() not in YES:
        yield
        return
    log(f"{VALIDATION} is set: this validation predicts several patches at once.")
    predictor = partial(BatchedPredictor, n_threads=torch.get_num_threads())  # as it trained
    with _predictor_of(trainer_module, predictor):
        yield


def run_nnunets_predict(
    arguments: Sequence[str], *, batch_size: int | None = None, n_threads: int | None = None
) -> None:
    """`nnUNetv2_predict ARGUMENTS`, or `nnUNetv2_predict_from_modelfolder` where -m is among them."""
    from_folder = "-m" in arguments
    entry = "predict_entry_point_modelfolder" if from_folder else "predict_entry_point"
    predictor = partial(BatchedPredictor, batch_size=batch_size, n_threads=n_threads)
    with _predictor_of(predict_from_raw_data, predictor), _argv(["nnunet-mamba predict", *arguments]):
        getattr(predict_from_raw_data, entry)()


@contextmanager
def _predictor_of(module: ModuleType, predictor: Callable[..., BatchedPredictor]) -> Iterator[None]:
    stock = module.nnUNetPredictor  # type: ignore[attr-defined]
    module.nnUNetPredictor = predictor  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.nnUNetPredictor = stock  # type: ignore[attr-defined]


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
