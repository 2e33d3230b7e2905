"""What a report is made from, and the choices that the page and the picture share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_mamba.study.evaluation import Label, Score
from nnunet_mamba.study.report.curves import Curves

REFERENCE_COLOUR = "#2dd4bf"  # outlines, the same on page and picture; both read on grey values
PREDICTION_COLOUR = "#fb923c"
N_SHOWN_CASES = 3


@dataclass(frozen=True)
class CaseFiles:
    """One unseen case on disk."""

    name: str
    image: Path  # the first channel
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Stage:
    """One step of the work, the time it took, and the commands it ran."""

    name: str
    seconds: float
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that is told. `facts` and `versions` are (name, text) pairs in order of telling."""

    title: str
    labels: tuple[Label, ...]
    scores: Sequence[Score]
    cases: Sequence[CaseFiles]
    curves: Curves
    facts: Sequence[tuple[str, str]]
    stages: Sequence[Stage]
    variables: Sequence[str]  # NAME=value, needed by the commands
    versions: Sequence[tuple[str, str]]


def shown_cases(report: Report) -> list[tuple[str, CaseFiles]]:
    """The best, the median and the worst case by mean Dice, each with that word; no choice that flatters."""
    ranked = sorted(report.cases, key=lambda case: case_dice(report.scores, case.name), reverse=True)
    if len(ranked) < N_SHOWN_CASES:
        return [("case", case) for case in ranked]
    places = {"best": 0, "median": (len(ranked) - 1) // 2, "worst": len(ranked) - 1}
    return [(word, ranked[place]) for word, place in places.items()]


def case_dice(scores: Sequence[Score], case: str) -> float:
    """Mean Dice over the labels of one case that are defined; 0 if none is."""
    values = [score.value for score in scores if score.case == case and score.metric == "dice"]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else 0.0
