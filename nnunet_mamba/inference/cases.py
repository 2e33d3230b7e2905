"""Prediction of files, case by case in one process: read, preprocess, predict, label, write.

A case that fails is reported, and the next one follows. On a GPU the next image is read and the last label
map written while the network computes; on the CPU, whose cores the network needs, one after the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_mamba.inference.batches import torch_threads
from nnunet_mamba.inference.export import Exporter, Prediction
from nnunet_mamba.inference.members import MembersPredictor
from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.inference.preprocessing import preprocess_case
from nnunet_mamba.inference.uncertainty import UncertaintyExporter
from nnunet_mamba.io.cpu import choose_n_threads
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.networks.finite import NonFiniteWeightsError


@dataclass(frozen=True)
class Case:
    """Image to predict.

    files            one per channel
    target           of the label map, without the ending
    previous_stage   label map of a cascade's previous stage
    """

    name: str
    files: tuple[Path, ...]
    target: Path
    previous_stage: Path | None = None


ReadFn = Callable[[Case], tuple[Tensor, dict]]


@dataclass
class Outcome:
    """Result of a case: the seconds of each stage, and the error that ended it."""

    case: Case
    seconds: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage; an error within ends the case, but for weights that would fail every case."""
        start = time.perf_counter()
        try:
            yield
        except NonFiniteWeightsError:
            raise
        except Exception as error:
            self.error = error
        self.seconds[name] = time.perf_counter() - start


def find_cases(images: Path, targets: Path, ending: str, previous_stage: Path | None = None) -> list[Case]:
    """Return the cases of a folder of images CASE_0000.nii.gz, CASE_0001.nii.gz, ... in order of their names.

    Raises ValueError if there are none.
    """
    channel = re.compile(rf"([^.].*)_\d{{4}}{re.escape(ending)}")
    files: dict[str, list[Path]] = {}
    for file in sorted(images.iterdir()):
        if match := channel.fullmatch(file.name):
            files.setdefault(match[1], []).append(file)
    if not files:
        raise ValueError(f"{images} holds no image; expected files named CASE_0000{ending}, as in training.")
    labels = {name: previous_stage and previous_stage / f"{name}{ending}" for name in files}
    return [Case(name, tuple(files[name]), targets / name, labels[name]) for name in sorted(files)]


def check_previous_stage(cases: Sequence[Case]) -> None:
    """Raise ValueError for label maps of a cascade's previous stage that are missing."""
    needed = [case.previous_stage for case in cases if case.previous_stage]
    if missing := [file for file in needed if not file.is_file()]:
        raise ValueError(
            f"{missing[0].parent} lacks {join_names([file.name for file in missing])}: a cascade needs the "
            "previous stage's label map of every case. Predict them with that stage first."
        )


class CasePredictor:
    """Prediction of cases with one trained model.

    Args:
        predictor: with a trained model; a MembersPredictor has maps of uncertainty written as well.
        overlap: read and write one more case each in threads of their own.
        report: called with each outcome, in the order of the cases.
        read: returns the preprocessed image of a case, (C, x, y, z), and its properties; by default they are
            made of the case's files.
    """

    def __init__(
        self,
        predictor: BatchedPredictor,
        *,
        save_probabilities: bool = False,
        overlap: bool = False,
        report: Callable[[Outcome], object] = lambda outcome: None,
        read: ReadFn | None = None,
    ) -> None:
        self.predictor = predictor
        options: Any = {"save_probabilities": save_probabilities, "n_threads": predictor.n_threads}
        if isinstance(predictor, MembersPredictor):
            self.exporter: Exporter = UncertaintyExporter(predictor, **options)
        else:
            plans, configuration = predictor.plans_manager, predictor.configuration_manager
            self.exporter = Exporter(plans, configuration, predictor.dataset_json, **options)
        self.overlap = overlap
        self.report = report
        self.read = read or self._preprocess

    def predict(self, cases: Sequence[Case]) -> list[Outcome]:
        """Predict the cases. Raises NonFiniteWeightsError for weights with which all would fail."""
        outcomes = [Outcome(case) for case in cases]
        with torch_threads(self.predictor.n_threads or choose_n_threads(steady=True)):
            (self._overlapped if self.overlap else self._in_turn)(outcomes)
        return outcomes

    def _in_turn(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._write(outcome, self._predict(outcome, self._read(outcome)))

    def _overlapped(self, outcomes: Sequence[Outcome]) -> None:
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            images = (reader.submit(self._read, outcome) for outcome in outcomes)
            ahead, written = next(images, None), None
            for outcome in outcomes:
                assert ahead is not None  # there is one per outcome
                image, ahead = ahead.result(), next(images, None)
                prediction = self._predict(outcome, image)
                if written:
                    written.result()
                written = writer.submit(self._write, outcome, prediction)
                del image, prediction  # one of each beside the present ones is enough memory
            if written:
                written.result()

    def _read(self, outcome: Outcome) -> tuple[Tensor, dict] | None:
        with outcome.stage("read"):
            return self.read(outcome.case)
        return None

    def _preprocess(self, case: Case) -> tuple[Tensor, dict]:
        return preprocess_case(
            [str(file) for file in case.files],
            str(case.previous_stage) if case.previous_stage else None,
            self.predictor.plans_manager,
            self.predictor.configuration_manager,
            self.predictor.dataset_json,
        )

    def _predict(self, outcome: Outcome, image: tuple[Tensor, dict] | None) -> Prediction | None:
        if image is None:
            return None
        with outcome.stage("network"):
            logits = self.predictor.predict_logits(image[0], outcome.case.name)
        if outcome.error:
            return None
        with outcome.stage("label"):
            return self.exporter.segment(logits, image[1])
        return None

    def _write(self, outcome: Outcome, prediction: Prediction | None) -> None:
        target = outcome.case.target
        if prediction is not None:
            with outcome.stage("write"):
                self.exporter.write(prediction, target)
        if outcome.error:
            self.exporter.remove(target)
        self.report(outcome)
        drop_tracebacks(outcome.error)


def summarise(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return a line about all cases: "3 cases in 41 s: read 3.1 s, network 36.0 s, ..."."""
    if not outcomes:
        return "Nothing was left to predict."
    done = [outcome for outcome in outcomes if outcome.error is None]
    total: dict[str, float] = {}
    for outcome in outcomes:
        for stage, spent in outcome.seconds.items():
            total[stage] = total.get(stage, 0.0) + spent
    cases = "1 case" if len(done) == 1 else f"{len(done)} cases"
    return f"{cases} in {seconds:.1f} s: {format_stages(total)}" if done else "No case was predicted."


def drop_tracebacks(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of its causes: their frames hold images and logits."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def describe_error(outcome: Outcome) -> str:
    """Return a message about the error that ended a case, with its name."""
    name, error = outcome.case.name, outcome.error
    text = str(error)
    if not text or not isinstance(error, (ValueError, OSError)):
        text = f"{type(error).__name__}: {text or '--verbose shows where it came from'}"
    return text if text.startswith((f"{name}:", f"{name},")) else f"{name}: {text}"


def format_stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {spent:.1f} s" for stage, spent in seconds.items())
