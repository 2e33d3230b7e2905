"""Choice of the cases that a report shows, read with their slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean

from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.report.predicted_cases import PredictedCases
from nnunet_mamba.study.report.slices import Slice, cut_slices, read_volume
from nnunet_mamba.study.statistics import DatasetComparison
from nnunet_mamba.study.statistics.formats import format_value


@dataclass(frozen=True)
class ShownCase:
    """Case with its picture's heading, its mean of the leading metric, and that of each label, as text."""

    slices: Sequence[Slice]
    heading: str
    mean: str
    labels: str


def read_shown_cases(
    predicted: PredictedCases,
    methods: Mapping[str, Method],
    scores: Sequence[Score],
    result: DatasetComparison,
) -> list[ShownCase]:
    """Return the best, the median and the worst case of one method, or the worst of each of several.

    They are ranked by the mean over labels of the result's metric, among the cases with an image.
    """
    shown = []
    for name, method in methods.items():
        files = predicted.cases.get(method, {})
        own = [s for s in scores if (s.metric, s.method) == (result.metric, method) and not isnan(s.value)]
        by_case = {case: [s for s in own if s.case == case] for case, each in files.items() if each.image}
        means = {case: fmean(s.value for s in each) for case, each in by_case.items() if each}
        ranked = sorted(means, key=lambda case: means[case], reverse=result.higher_is_better)
        picked = _pick_cases(ranked) if len(methods) == 1 else [(name, case) for case in ranked[-1:]]
        for word, case in picked:
            texts = (f"{s.label_name or s.label} {format_value(s.value, s.metric)}" for s in by_case[case])
            mean = f"{result.metric_title} {format_value(means[case], result.metric)}"
            slices = cut_slices(read_volume(files[case]), predicted.labels)
            shown.append(ShownCase(slices, f"{word}: {case}", mean, ", ".join(texts)))
    return shown


def _pick_cases(ranked: Sequence[str]) -> list[tuple[str, str]]:
    """Return three of the cases, each after a word; all of them without a ranking if there are fewer."""
    if len(ranked) < 3:
        return [("case", case) for case in ranked]
    return [("best", ranked[0]), ("median", ranked[(len(ranked) - 1) // 2]), ("worst", ranked[-1])]
