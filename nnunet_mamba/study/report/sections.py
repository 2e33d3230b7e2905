"""Sections of the report, each a list of blocks, which is empty where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_mamba.io.document import (
    Block,
    BulletList,
    CasePicture,
    Chart,
    Collapsible,
    OutlineLegend,
    Paragraph,
)
from nnunet_mamba.io.tables import Table
from nnunet_mamba.study.evaluation import PROTOCOLS
from nnunet_mamba.study.report import charts, study_tables
from nnunet_mamba.study.report.content import StudyReport
from nnunet_mamba.study.report.figures import render_axes
from nnunet_mamba.study.report.predicted_cases import count_confusion
from nnunet_mamba.study.report.published import find_differences
from nnunet_mamba.study.report.slices import PREDICTION_COLOUR, REFERENCE_COLOUR, render_slices
from nnunet_mamba.study.report.training_curves import TrainingRun
from nnunet_mamba.study.statistics import DatasetComparison
from nnunet_mamba.study.statistics.formats import format_spread, get_metric_title
from nnunet_mamba.study.statistics.output import EQUIVALENCE
from nnunet_mamba.study.statistics.result_tables import (
    build_comparison_tables,
    build_ranking_tables,
    build_score_table,
    build_warnings,
)

MAX_CONFUSED = 20  # labels in a readable table of confusions
CHART_SIZE_IN = (4.3, 3.2)


def build_scores(report: StudyReport) -> list[Block]:
    """Return the results of one method: each label by every metric, every case."""
    metrics = [result.metric for result in report.comparisons]
    (method,) = report.leading.methods
    notes = ["Mean ± SD over cases. A label that neither reference nor prediction has is not counted."]
    if len(method.fold_means) > 1:
        spread = format_spread(method.mean, method.sd_over_folds, report.leading.metric)
        notes.append(
            f"{report.leading.metric_title}, mean over cases ± SD over the means of folds: {spread}."
        )
    return [
        *build_warnings(report.leading),
        build_score_table(report.scores, metrics),
        BulletList([*notes, *_describe_protocol(report.leading)]),
        Collapsible("Every case", [study_tables.build_case_table(report)]),
        *(_build_label_chart(report, result) for result in report.comparisons),
    ]


def build_results(report: StudyReport) -> list[Block]:
    """Return the results of several methods beside each other."""
    notes = [
        "A case counts by its mean over labels. ± is the SD over the means of the folds, where there are "
        "several. Bold: the best, if every test it took part in is in its favour after Holm's correction.",
        "Charts: dots are cases, the box holds the middle half with the median, diamonds are fold means. "
        "Hollow: without SSM. Arrows: cases beyond the axis.",
        *_describe_protocol(report.leading),
    ]
    if any(table.metric == report.leading.metric for table in report.published):
        notes.insert(2, "Papers' numbers mostly cannot be compared: what differs is told below, by number.")
    means = (
        Chart(charts.plot_case_means(report, each), f"{each.metric_title} of every case by method")
        for each in report.comparisons
    )
    return [
        *build_warnings(report.leading),
        study_tables.build_summary_table(report),
        *means,
        BulletList(notes),
    ]


def _describe_protocol(result: DatasetComparison) -> list[str]:
    name = result.protocol.partition(" ")[0]
    return [f"Protocol {result.protocol}: {PROTOCOLS[name].difference}"] if name in PROTOCOLS else []


def build_differences(report: StudyReport) -> list[Block]:
    result = report.leading
    blocks = _build_tests(report, result)
    note = (
        "Differences are method − other, means over cases, with BCa bootstrap intervals over "
        f"{result.resampled} ({result.n_bootstrap} resamples, seed {result.seed}); p by Wilcoxon's signed "
        f"rank test, corrected by Holm within a table; significant below {result.alpha:g}. r: rank-biserial "
        "correlation, positive where the method is better; folds: in how many it is. false claim: the "
        "probability that the method of the better mean is not truly better, by a t posterior of the "
        f"differences. {_explain_seeds(result)} A difference below the SD over folds may be noise."
    )
    notes = [note, EQUIVALENCE] if any(each.has_margin for each in report.comparisons) else [note]
    others = [Collapsible(each.metric_title, _build_tests(report, each)) for each in report.comparisons[1:]]
    ranked = build_ranking_tables(result, with_shares=True)
    rankings = [Collapsible("Rankings", ranked)] if ranked else []
    return [*blocks, *map(Paragraph, notes), *others, *rankings] if blocks else []


def _explain_seeds(result: DatasetComparison) -> str:
    if result.n_seeds > 1:
        return (
            f"Intervals resample {result.paired} and the {result.n_seeds} trainings of each fold and method; "
            "p is the larger of the signed rank test's and that of these resamples. false claim is of means "
            "over these seeds, and knows nothing of others."
        )
    return "Intervals hold for the models as trained: what another seed would change is not in them."


def _build_tests(report: StudyReport, result: DatasetComparison) -> list[Block]:
    """Return the tests of case means by one metric: the tables, then the charts."""
    caption = f"{result.metric_title}: each case's difference, and its mean with 95 % CI; {{}}"
    plotted = (
        Chart(charts.plot_differences(report, result, against), caption.format(against))
        for against in result.families
    )
    return [*build_comparison_tables(result, of_labels=False), *plotted]


def build_labels(report: StudyReport) -> list[Block]:
    result = report.leading
    if len(result.labels) < 2:
        return []
    differences = (
        Chart(charts.plot_label_differences(report, result, against), f"Differences by label, {against}")
        for against in result.families
    )
    tests = {each.metric: build_comparison_tables(each, of_labels=True) for each in report.comparisons}
    others = (
        Collapsible(
            f"{each.metric_title} by label",
            [study_tables.build_label_table(report, each), *tests[each.metric]],
        )
        for each in report.comparisons[1:]
    )
    return [
        study_tables.build_label_table(report, result),
        _build_label_chart(report, result),
        *differences,
        Paragraph(
            "Means over the cases where a label is defined. Filled marks and bold: significant after Holm's "
            "correction over the tests of all labels."
        ),
        *([Collapsible("Tests by label", tests[result.metric])] if result.families else []),
        *others,
    ]


def _build_label_chart(report: StudyReport, result: DatasetComparison) -> Chart:
    by = "label" if report.single else "label and method"
    return Chart(charts.plot_labels(report, result), f"{result.metric_title} of every case by {by}")


def build_papers(report: StudyReport) -> list[Block]:
    if not report.published:
        return []
    beside = study_tables.build_paper_table(report)
    sources = []
    for i, table in enumerate(report.published, start=1):
        reasons = find_differences(table, report.setup)
        verdict = (
            f"Not comparable: {'; '.join(reasons)}."
            if reasons
            else "Same rules and number of cases; whether they are the same cases is not known here."
        )
        training = table.training[0].upper() + table.training[1:]
        what = f"{get_metric_title(table.metric)}; {table.cases}"
        sources.append(f"[{i}] {table.source}. {what}. {training}. {verdict}")
    differing = [table for table in report.published if find_differences(table, report.setup)]
    warning = (
        "None of these papers' numbers was made as the numbers here were; none can be compared with them."
        if len(differing) == len(report.published)
        else "Papers' numbers were made by others and mostly by other rules; below, each says whether it "
        "can be compared."
    )
    blocks: list[Block] = [Paragraph(warning, is_warning=True)]
    if beside.rows:
        blocks += [
            beside,
            Paragraph("Here: the mean over labels of the means over cases, as papers have it."),
        ]
    blocks += [Collapsible("By label", [each]) for each in study_tables.build_paper_label_tables(report)]
    whole = [
        study_tables.build_full_paper_table(i, table) for i, table in enumerate(report.published, start=1)
    ]
    return [*blocks, BulletList(sources), Collapsible("All networks of these papers", whole)]


def build_cases(report: StudyReport) -> list[Block]:
    if report.predicted is None or not report.shown_cases:
        return []
    labels = report.predicted.labels
    pictures = (
        CasePicture(render_slices(case.slices, labels), f"{case.heading}, {case.mean} ({case.labels})")
        for case in report.shown_cases
    )
    which = "The best, the median and the worst case" if report.single else "The worst case of each method"
    legend = OutlineLegend((("reference", REFERENCE_COLOUR), ("prediction", PREDICTION_COLOUR)))
    return [_add_seeds(report, f"{which}, where labels show most."), legend, *pictures]


def build_training(report: StudyReport) -> list[Block]:
    runs = {name: own for name, method in report.methods.items() if (own := report.select_runs(method))}
    if not runs:
        return []
    plotted = _plot_one_method(*runs.values()) if report.single else _plot_methods(report, runs)
    note = (
        "A line per fold. Pseudo Dice is nnU-Net's, of random patches of the validation cases. Hours are the "
        "sum of the epochs' times; compare them on one machine only. nnU-Net's logs hold no memory; the "
        "command estimate tells it."
    )
    return [study_tables.build_training_table(report), *plotted, _add_seeds(report, note)]


def _add_seeds(report: StudyReport, text: str) -> Paragraph:
    """Return the text with a sentence on the trainings' seeds, if they are known."""
    return Paragraph(f"{text} {report.note_on_seeds}".rstrip())


def _plot_one_method(runs: Sequence[TrainingRun]) -> list[Block]:
    """Return the curves of one method."""
    average = (
        "Dots: pseudo Dice of an epoch. Line: nnU-Net's moving average, nine parts of what it was and one "
        "part of the new epoch, by which it chooses checkpoint_best.pth."
    )
    return [
        Chart(
            render_axes(CHART_SIZE_IN, lambda axes: charts.draw_losses(axes, runs)),
            "nnU-Net's loss, the mean over an epoch.",
        ),
        Chart(render_axes(CHART_SIZE_IN, lambda axes: charts.draw_pseudo_dice(axes, runs)), average),
    ]


def _plot_methods(report: StudyReport, runs: dict[str, list[TrainingRun]]) -> list[Block]:
    """Return the curves of several methods, and what their time gained."""
    hours = {name: study_tables.compute_hours(own) for name, own in runs.items()}
    dotted = "dotted: without SSM"
    blocks: list[Block] = [
        Chart(
            charts.plot_curves(report, lambda curves: curves.smooth_dice, "pseudo Dice, moving average"),
            f"Pseudo Dice by epoch, a line per fold; {dotted}",
        ),
        Chart(
            charts.plot_curves(report, lambda curves: curves.validation_loss, "validation loss"),
            f"Validation loss by epoch, a line per fold; {dotted}",
        ),
    ]
    if len(hours) > 1:
        title = f"{report.leading.metric_title} against training time"
        blocks.append(Chart(charts.plot_cost(report, hours), title))
    return blocks


def build_confusion(report: StudyReport) -> list[Block]:
    predicted = report.predicted
    if predicted is None or not 2 < len(predicted.names) <= MAX_CONFUSED:
        return []
    found: list[tuple[str, Table, int]] = []
    for name, method in report.methods.items():
        if cases := predicted.cases.get(method):
            voxels, n_cases = count_confusion(cases.values(), list(predicted.names))
            table = study_tables.build_confusion_table(voxels, list(predicted.names.values()))
            found.append((name, table, n_cases))
    if not found:
        return []
    counts = ", ".join(dict.fromkeys(str(n) for _, _, n in found))
    note = (
        "Of the reference's voxels of a label (row), the percentage predicted as each label (column), over "
        f"{counts} cases{'' if report.single else ' of each method'}."
    )
    first, *others = (replace(table, title=name) for name, table, _ in found)
    return [
        _add_seeds(report, note),
        replace(first, title="") if report.single else first,
        *(Collapsible(table.title, [replace(table, title="")]) for table in others),
    ]
