"""Content of the quickstart's report, and the choice of cases that its page and its figure share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_mamba.study.evaluation import Label, Score
from nnunet_mamba.study.report.files import CaseFiles
from nnunet_mamba.study.report.training_curves import TrainingCurves

N_SHOWN_CASES = 3


@dataclass(frozen=True)
class Stage:
    """One step of the quickstart, the time it took, and the commands it ran."""

    name: str
    seconds: float
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuickstartReport:
    """Content of the page and the figure; `facts` and `versions` are ordered (name, text) pairs."""

    title: str
    labels: tuple[Label, ...]
    scores: Sequence[Score]
    cases: Sequence[CaseFiles]
    curves: TrainingCurves
    facts: Sequence[tuple[str, str]]
    stages: Sequence[Stage]
    variables: Sequence[str]  # NAME=value, needed by the commands
    versions: Sequence[tuple[str, str]]


def choose_cases(report: QuickstartReport) -> list[tuple[str, CaseFiles]]:
    """Return the best, the median and the worst case by mean Dice, each with that word."""
    ranked = sorted(report.cases, key=lambda case: mean_case_dice(report.scores, case.name), reverse=True)
    if len(ranked) < N_SHOWN_CASES:
        return [("case", case) for case in ranked]
    places = {"best": 0, "median": (len(ranked) - 1) // 2, "worst": len(ranked) - 1}
    return [(word, ranked[place]) for word, place in places.items()]


def mean_case_dice(scores: Sequence[Score], case: str) -> float:
    """Return the mean Dice over the labels of one case that are defined; 0 if none is."""
    values = [score.value for score in scores if score.case == case and score.metric == "dice"]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else 0.0
