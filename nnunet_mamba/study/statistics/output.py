"""Output of a comparison: short text for a terminal, Markdown with everything, JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.io.document import Block, BulletList, Document, Section, render_markdown
from nnunet_mamba.study.statistics.result_tables import (
    build_comparison_tables,
    build_method_table,
    build_ranking_tables,
    build_warnings,
    state_verdicts,
)
from nnunet_mamba.study.statistics.results import DatasetComparison


def as_text(results: Iterable[DatasetComparison]) -> str:
    """Return text for a terminal: case means only; of labels, how many are better and worse."""
    blocks = []
    for result in results:
        warnings = (f"warning: {text}" for text in result.warnings)
        tested = build_comparison_tables(result, of_labels=False, is_short=True)
        blocks += [
            "\n".join([_format_headline(result), *_list_facts(result), *warnings]),
            *(table.render_text() for table in (build_method_table(result), *tested)),
            "\n".join(state_verdicts(result)),
            *(table.render_text() for table in build_ranking_tables(result, with_shares=False)),
        ]
    return "\n\n".join(blocks)


def as_markdown(results: Iterable[DatasetComparison]) -> str:
    """Return Markdown with everything, each label included, and how to read it."""
    results = list(results)
    sections = [Section(_format_headline(result), _build_blocks(result)) for result in results]
    reading = Section("How to read this", [BulletList(explain_results(results))])
    return render_markdown(Document("Comparison of methods", [*sections, reading]))


def _build_blocks(result: DatasetComparison) -> list[Block]:
    return [
        BulletList(_list_facts(result)),
        *build_warnings(result),
        BulletList(state_verdicts(result)),
        build_method_table(result),
        *build_comparison_tables(result, of_labels=False),
        *build_comparison_tables(result, of_labels=True),
        *build_ranking_tables(result, with_shares=True),
    ]


def explain_results(results: Sequence[DatasetComparison]) -> list[str]:
    """Return sentences on what the numbers and verdicts of these results mean."""
    has_seeds = any(result.n_seeds > 1 for result in results)
    has_margin = any(result.has_margin for result in results)
    of_seeds = (
        "SD over seeds: how far it moves when all folds are trained again. Intervals resample patients, and "
        "the trainings of each fold and method; p is the larger of the signed rank test's and that of these "
        "resamples. false claim is of patients' means over these seeds, and knows nothing of others."
        if has_seeds
        else "Training again with another seed moves it too, and no interval here knows how far."
    )
    sampled = "patients and seeds" if has_seeds else "patients, for the models as trained"
    return [
        f"difference: method − other, the mean over cases. 95 % CI: BCa bootstrap over {sampled}.",
        "p: Wilcoxon's signed rank test of patients' means, two-sided, ranks of zeros halved. p (Holm): "
        "corrected for the tests of one table.",
        "false claim: the probability that the method of the better mean is not truly better, by a t "
        "posterior of patients' differences; 0.5 where their mean is 0.",
        "wins: share of patients where the method is better, ties half. r: matched-pairs rank-biserial "
        "correlation, −1 to 1, positive where the method is better. folds: in how many its mean is better. "
        "pairs: patients.",
        "better, worse: p (Holm) below 0.05. not better: no difference was shown; the interval says how "
        "large one could be. mixed: ranks and mean point in opposite directions. too few pairs: fewer than "
        "6, where no outcome would be significant.",
        *([EQUIVALENCE] if has_margin else []),
        "SD over folds: how far a method's mean moves from fold to fold, a yardstick for differences. "
        f"{of_seeds}",
    ]


EQUIVALENCE = (
    "equivalent: no difference was shown, and p equivalent (Holm) is below 0.05: the difference lies between "
    "−margin and +margin. p equivalent: two one-sided tests, by ranks and by the bootstrap, of which the "
    "largest p counts; by the bootstrap it is below 0.05 where the 90 % CI lies within the margin. by less "
    "than the margin: a difference was shown, and is that small."
)


def _format_headline(result: DatasetComparison) -> str:
    way = "higher" if result.higher_is_better else "lower"
    dataset = result.dataset or "Dataset not stated"
    return f"{dataset}, {result.metric} ({way} is better), protocol {result.protocol or 'not stated'}"


def _list_facts(result: DatasetComparison) -> list[str]:
    patients = f" of {result.n_patients} patients" if result.n_patients < result.n_cases else ""
    labels = f"{len(result.labels)} label{'s' * (len(result.labels) > 1)}"
    return [
        f"{result.n_cases} cases{patients}, {labels}; a case counts by its mean over labels",
        f"{_describe_resamples(result)}, seed {result.seed}",
    ]


def _describe_resamples(result: DatasetComparison) -> str:
    if result.n_seeds == 1:
        return f"intervals and rankings: {result.n_bootstrap} resamples of {result.resampled}"
    return (
        f"{result.n_seeds} seeds, over which a case's value is the mean; {result.n_bootstrap} resamples: for "
        f"intervals of {result.resampled}, for rankings of {result.paired}"
    )


def write_results(results: Sequence[DatasetComparison], out: Path) -> list[Path]:
    """Write comparison.md, .json and .csv into the folder `out`, or one of them if `out` has such an ending.

    The CSV has challengeR's columns and the values that are ranked: a case's mean over labels.
    """
    out = Path(out)
    formats = {".md": as_markdown, ".json": as_json, ".csv": as_csv}
    if out.suffix and out.suffix not in formats and not out.is_dir():
        raise ValueError(f"{out} should be a folder, or end in {', '.join(formats)}.")
    single = out.suffix in formats and not out.is_dir()
    files = [out] if single else [out / f"comparison{ending}" for ending in formats]
    for file in files:
        write_text(file, formats[file.suffix](results))
    return files


def as_json(results: Iterable[DatasetComparison]) -> str:
    """Return the fields of each `DatasetComparison` as JSON; null for a number that is not defined."""
    return json.dumps(replace_nan([asdict(result) for result in results]), indent=1, allow_nan=False) + "\n"


def as_csv(results: Iterable[DatasetComparison]) -> str:
    """Return the case means in challengeR's columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "alg_name", "case", "value"))
    for result in results:
        for method, means in result.case_means.items():
            writer.writerows((result.dataset, method, case, value) for case, value in means.items())
    return text.getvalue()


def replace_nan(value: Any) -> Any:
    """Return a value fit for JSON: lists for tuples, None for NaN."""
    if isinstance(value, dict):
        return {key: replace_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(each) for each in value]
    return None if isinstance(value, float) and isnan(value) else value
