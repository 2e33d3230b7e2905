"""The worst case of each method, in three planes with both outlines."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from nnunet_mamba.study.evaluation import Score, summarise
from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.report.content import StudyReport, metric_name
from nnunet_mamba.study.report.document import Picture
from nnunet_mamba.study.report.figures import number, png_uri
from nnunet_mamba.study.report.quickstart_content import CaseFiles
from nnunet_mamba.study.report.slices import cut, draw, read_volume

HEIGHT_IN = 2.3
DPI = 100


def worst_cases(report: StudyReport) -> list[Picture]:
    """By the leading metric, among the cases whose files were found."""
    if report.files is None:
        return []
    found = []
    for name, method in report.methods.items():
        maps = report.files.maps.get(method, {})
        cases = {case: files for case, each in maps.items() if (files := each.as_files())}
        scores = [s for s in report.scores_of(method, report.leading.metric) if s.case in cases]
        means = _case_means(scores)
        if means:
            worst = (min if report.leading.higher_is_better else max)(means, key=lambda case: means[case])
            own = [s for s in scores if s.case == worst]
            caption = f"{name}, {worst}: {metric_name(report.leading.metric)} {_told(means[worst], own)}"
            found.append(Picture(panels(cases[worst], report.files.labels), caption))
    return found


def panels(files: CaseFiles, labels: tuple[Label, ...]) -> list[tuple[str, str]]:
    """Each plane's picture and name, to one scale."""
    slices = cut(read_volume(files), labels)
    tallest_mm = max(shown.image.shape[0] * shown.pixel_mm[0] for shown in slices)
    found = []
    for shown in slices:
        height, width = (
            n * mm * HEIGHT_IN / tallest_mm for n, mm in zip(shown.image.shape, shown.pixel_mm, strict=True)
        )
        figure = Figure(figsize=(width, height), facecolor="black")
        draw(figure.add_axes((0, 0, 1, 1)), shown, labels, linewidth=1.0)
        found.append((png_uri(figure, DPI), shown.plane))
    return found


def _case_means(scores: list[Score]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for score in scores:
        if not math.isnan(score.value):
            values.setdefault(score.case, []).append(score.value)
    return {case: sum(each) / len(each) for case, each in values.items()}


def _told(mean: float, scores: list[Score]) -> str:
    labels = ", ".join(f"{row.label_name or row.label} {number(row.mean, 3)}" for row in summarise(scores))
    return f"{number(mean, 3)} ({labels})"
