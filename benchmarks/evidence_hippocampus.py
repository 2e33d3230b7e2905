"""Tables of the hippocampus in 3D: each network with its twins (docs/benchmark.md), under other
conditions (docs/mm-unet.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from records import replace_table

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.evaluation import Score
from nnunet_mamba.study.evaluation.table import read_table
from nnunet_mamba.study.statistics import Comparison, DatasetComparison, MethodSummary, as_markdown, compare
from nnunet_mamba.study.statistics.formats import format_p
from nnunet_mamba.study.statistics.methods import SIZE_TWIN, TWIN

STUDY = yaml.safe_load((Path(__file__).parents[1] / "scripts" / "benchmark_hippocampus_3d.yaml").read_text())
NETWORKS = {  # title -> trainer, plans
    "nnU-Net": ("Control", "demo"),
    "nnU-Net ResEnc M": ("Control", "demo_resenc"),
    "MM-UNet": ("MMUNet", "demo"),
    "MM-UNet's twin": ("MMUNetNoSSM", "demo"),
    "MM-UNet's size-matched twin": ("MMUNet_Conv", "demo"),
    "U-Mamba Bot": ("UMambaBot", "demo"),
    "U-Mamba Enc": ("UMambaEnc", "demo"),
    "U-Mamba's twin": ("UMambaBotNoSSM", "demo"),
    "U-Mamba Bot's size-matched twin": ("UMambaBot_Conv", "demo"),
    "Mamba Uni": ("MambaUni", "demo"),
    "Mamba Bi": ("MambaBi", "demo"),
    "Mamba Multi": ("MambaMulti", "demo"),
    "Taming Mambas' twin": ("MambaMultiNoSSM", "demo"),
}
BASELINE, NO_FLIPS = "nnU-Net", "noflips"
CONDITIONS = {  # of the study -> title
    "": "as trained",
    "noflips": "no flips",
    "noise10": "noise 0.1",
    "noise30": "noise 0.3",
    "gamma": "gamma 1.5",
    "bright": "brighter",
    "nomixer": "mixers off",
}


def write_pages(folder: Path, docs: Path) -> None:
    """Write the tables of the docs, and those of `compare` in `folder`, from the scores there."""
    scores = read_table(folder / "scores.parquet")
    trained = [score for score in scores if not score.method.condition]
    results = {metric: compare_metric(trained, metric) for metric in STUDY["metrics"]}
    for metric, result in results.items():
        write_text(folder / f"{metric}.md", as_markdown([result]))
    replace_table(docs / "benchmark.md", "hippocampus_3d", network_table(results["dice"], results["hd95"]))
    flips = compare_metric([score for score in scores if score.method.condition in ("", NO_FLIPS)], "dice")
    changes = compare_metric(compare_with_no_flips(scores), "dice")
    for name, result in (("flips", flips), ("conditions", changes)):
        write_text(folder / f"{name}.md", as_markdown([replace(result, rankings=())]))
    replace_table(docs / "mm-unet.md", "conditions", condition_table(results["dice"], changes))


def compare_with_no_flips(scores: Iterable[Score]) -> list[Score]:
    """Return the scores under conditions, all of them without mirrored copies; those without any other change
    as of the network itself, so that the others are compared with it."""
    return [
        replace(score, trainer=score.method.trained.trainer) if score.method.condition == NO_FLIPS else score
        for score in scores
        if score.method.condition
    ]


def compare_metric(scores: Sequence[Score], metric: str) -> DatasetComparison:
    """Return the comparison of all methods on the trainings that each of them has."""
    baseline = str(find_method(BASELINE))
    chosen = select_common(score for score in scores if score.metric == metric)
    [result] = compare(chosen, metric=metric, baseline=baseline, margin=STUDY["margins"].get(metric))
    return result


def select_common(scores: Iterable[Score]) -> list[Score]:
    """Return the scores of the folds and seeds that all methods have."""
    found = list(scores)
    trainings = defaultdict(set)
    for score in found:
        trainings[score.method].add((score.fold, score.seed))
    common = set.intersection(*trainings.values()) if trainings else set()
    if not common:
        raise ValueError("There is no fold and seed of which all methods have scores; gather more of them.")
    if left_out := set.union(*trainings.values()) - common:
        print(f"left out, since some methods lack them: fold and seed {sorted(left_out)}")
    return [score for score in found if (score.fold, score.seed) in common]


def find_method(title: str, condition: str = "") -> Method:
    """Return the method of a row under a condition."""
    trainer, plans = NETWORKS[title]
    return Method(f"nnUNetTrainer{trainer}_1200steps", plans, "3d_fullres").under(condition)


def network_table(dice: DatasetComparison, hd95: DatasetComparison) -> str:
    """Return the table of all networks in Markdown: Dice, HD95, and Dice beyond the twins'."""
    distances = {summary.full_name: summary for summary in hd95.methods}
    families = {"its twin": TWIN.against, "its size-matched twin": SIZE_TWIN.against}
    families = {name: against for name, against in families.items() if dice.select_case_means(against)}
    heading = ["network", "Dice (SD over cases)", "HD95 mm", *(f"beyond {name} | p" for name in families)]
    lines = [f"| {' | '.join(heading)} |"]
    for title, name in present_rows(dice):
        method = find_summary(dice, name)
        cells = [f"{method.mean:.3f} ({method.sd:.3f})", f"{distances[name].mean:.2f}"]
        for against in families.values():
            found = find_comparison(dice, against, method.method)
            cells += [format_difference(found), format_p(found.p_holm)] if found else ["", ""]
        lines.append(f"| {' | '.join([title, *cells])} |")
    return join_table(lines)


def condition_table(dice: DatasetComparison, changes: DatasetComparison) -> str:
    """Return the table of Dice by network and condition in Markdown, the first column as trained; of a
    network with mixers also what it has beyond its twin under the same condition."""
    lines = [f"| network | {' | '.join(CONDITIONS.values())} |"]
    for title, name in present_rows(dice):
        cells = [format_condition(dice, name)]
        for key in list(CONDITIONS)[1:]:
            cells.append(format_condition(changes, str(find_method(title, "" if key == NO_FLIPS else key))))
        lines.append(f"| {' | '.join([title, *cells])} |")
    return join_table(lines)


def format_condition(dice: DatasetComparison, name: str) -> str:
    if all(summary.full_name != name for summary in dice.methods):
        return ""
    method = find_summary(dice, name)
    found = find_comparison(dice, TWIN.against, method.method)
    beyond = f", {round(found.difference, 3) + 0.0:+.3f}{mark(found)}" if found else ""  # no -0.000
    return f"{method.mean:.3f}{beyond}"


def format_difference(found: Comparison) -> str:
    return f"{found.difference:+.4f} ({found.ci_low:+.4f} to {found.ci_high:+.4f}), {found.verdict_text}"


def mark(found: Comparison) -> str:
    """Return a star for a difference that the test shows."""
    return "*" if found.verdict in ("better", "worse", "mixed") else ""


def present_rows(result: DatasetComparison) -> list[tuple[str, str]]:
    """Return (title, full name) of the rows that have scores, in the order of `NETWORKS`."""
    names = {summary.full_name for summary in result.methods}
    rows = ((title, str(find_method(title))) for title in NETWORKS)
    return [(title, name) for title, name in rows if name in names]


def find_summary(result: DatasetComparison, full_name: str) -> MethodSummary:
    return next(summary for summary in result.methods if summary.full_name == full_name)


def find_comparison(result: DatasetComparison, against: str, method: str) -> Comparison | None:
    return next((c for c in result.select_case_means(against) if c.method == method), None)


def join_table(lines: Sequence[str]) -> str:
    """Return a table in Markdown, the heading ruled off."""
    return "\n".join([lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]])
