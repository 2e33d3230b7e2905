"""The evidence on where mixers help: gathered in parts from what a sweep leaves; the table of the docs."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pytest

from nnunet_mamba.study.evaluation import Score

ROOT = Path(__file__).parents[2]
LOG = "Epoch {k}\ntrain_loss 0\nval_loss 0\nPseudo dice [{a}, {b}]\nEpoch time: 1 s\n"
METHOD = "nnUNetTrainerMMUNet_longrange__shallow__2d"
NAMES = ("Dataset932_LongRange", *METHOD.split("__"), "0")


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evidence")


@pytest.fixture
def longrange(evidence):
    return evidence.evidence_longrange


@pytest.fixture
def gather(evidence, tmp_path, monkeypatch):
    """Gather a training of two cases, of which nnU-Net left its log; without Dice it is not finished."""

    def gather_training(dice, curve, seed="0"):
        fold = tmp_path / f"seed_{seed}" / NAMES[0] / METHOD / "fold_0"
        fold.mkdir(parents=True, exist_ok=True)
        (fold / "debug.json").write_text(json.dumps({}))
        log = "".join(LOG.format(k=k, a=value, b=value) for k, value in enumerate(curve))
        (fold / "training_log_1.txt").write_text(log)
        columns = dict(zip(evidence.TRAINING, (*NAMES, seed), strict=True))
        scored = pd.DataFrame({"case": ["a", "b"][: len(dice)], "metric": "dice", "value": dice})
        monkeypatch.setattr(evidence, "score_folds", lambda folder, metrics: scored.assign(**columns))
        monkeypatch.setattr(evidence, "read_cases", lambda dataset: {"0": frozenset("ab")})
        evidence.gather(tmp_path / "out", [fold.parents[1]], ["dice"])
        return tuple(pd.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("scores", "curves"))

    return gather_training


def test_gathering_again_replaces_a_training_and_keeps_the_others(gather):
    gather([0.5, 0.6], [0.1, 0.2])
    gather([0.7, 0.8], [0.3], seed="1")
    scores, curves = gather([0.9, 1.0], [0.4, 0.5, 0.6])
    assert list(scores["value"]) == [0.9, 1.0, 0.7, 0.8]
    assert list(curves["dice"]) == pytest.approx([0.4, 0.5, 0.6, 0.3])
    assert list(curves["epoch"]) == [1, 2, 3, 1]


def test_a_curve_without_scores_is_of_a_training_that_is_not_finished(gather):
    gather([0.5, 0.6], [0.1])
    scores, curves = gather([], [0.5, 0.6], seed="1")
    assert set(scores["seed"]) == set(curves["seed"]) == {"0"}


def test_a_training_that_lacks_cases_of_its_fold_is_not_finished(evidence, tmp_path, monkeypatch, capsys):
    splits = tmp_path / NAMES[0] / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text(json.dumps([{"train": ["c"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c"]}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    columns = dict(zip(evidence.TRAINING, (*NAMES, "0"), strict=True))
    whole = pd.DataFrame({"case": ["a", "a", "b"], **columns})
    half = pd.DataFrame({"case": ["a", "a"], **columns, "trainer": "nnUNetTrainerOther"})
    other_fold = pd.DataFrame({"case": ["c"], **columns, "fold": "1"})
    scores = pd.concat([whole, half, other_fold], ignore_index=True)
    kept = evidence.drop_unfinished(scores, evidence.read_cases(NAMES[0]))
    assert list(kept["case"]) == ["a", "a", "b", "c"]
    assert "not finished" in (said := capsys.readouterr().out) and "nnUNetTrainerOther" in said


def test_scores_of_one_metric_leave_those_of_others(evidence, tmp_path):
    rows = pd.DataFrame([(*NAMES, "0", metric, 1.0) for metric in ("dice", "hd95")])
    rows.columns = [*evidence.TRAINING, "metric", "value"]
    file, key = tmp_path / "scores.parquet", [*evidence.TRAINING, "metric"]
    evidence.merge(file, [rows], key)
    evidence.merge(file, [rows[rows["metric"] == "dice"].assign(value=2.0)], key)
    assert dict(pd.read_parquet(file)[["metric", "value"]].to_numpy()) == {"dice": 2.0, "hd95": 1.0}


def test_a_folder_without_finished_folds_has_no_rows(evidence, tmp_path, capsys):
    folder = tmp_path / "Dataset932_LongRange"
    (folder / METHOD / "fold_0").mkdir(parents=True)
    assert evidence.score_folds(folder, ["dice"]).empty
    assert "fold_0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "curve, steps",
    [([0.5, 0.95, 0.96], 50), ([0.95, 0.96], 25), ([0.95, 0.5, 0.95], 75), ([0.5, 0.95, 0.89], None)],
)
def test_solved_is_what_stays_solved(longrange, gather, curve, steps):
    scores, curves = gather([0.95, 0.97], curve)
    found = longrange.steps_to_solve(curves, "MMUNet", "shallow")
    assert found == ({32: steps} if steps else {})
    in_brackets = f" ({steps})" if steps else ""
    table = longrange.longrange_table(scores, curves)
    assert table == f"| network | 32 pixels |\n|---|---|\n| MM-UNet | 0.96{in_brackets} |"


def test_the_table_of_the_docs_is_that_of_the_committed_scores(longrange):
    folder = ROOT / "benchmarks" / "results" / "longrange"
    table = longrange.longrange_table(
        *(pd.read_parquet(folder / f"{k}.parquet") for k in ("scores", "curves"))
    )
    assert f"<!-- longrange -->\n{table}\n<!-- end -->" in (ROOT / "docs" / "longrange.md").read_text()


@pytest.fixture
def hippocampus(evidence):
    return evidence.evidence_hippocampus


def make_scores(hippocampus, title, dice, *, condition="", folds=("0",)):
    """Return scores of eight cases a fold, whose mean Dice is `dice` in fold 0, and 0 in the others."""
    method = hippocampus.find_method(title, condition)._asdict()
    return [
        Score(
            case=f"{fold}{k}",
            label="1",
            label_name="Anterior",
            metric=metric,
            value=value + (k - 3.5) / 1000 if fold == "0" else 0.0,
            n_voxels=10,
            empty="",
            dataset="Dataset004_Hippocampus",
            fold=fold,
            protocol="honest",
            seed="0",
            **method,
        )
        for metric, value in (("dice", dice), ("hd95", 10 * dice))
        for fold in folds
        for k in range(8)
    ]


def test_the_tables_are_of_the_trainings_that_all_methods_have(hippocampus):
    scores = [
        *make_scores(hippocampus, "nnU-Net", 0.7, folds=("0", "1")),
        *make_scores(hippocampus, "nnU-Net", 0.68, condition="noflips"),
        *make_scores(hippocampus, "MM-UNet", 0.8),
        *make_scores(hippocampus, "MM-UNet", 0.75, condition="noflips"),
        *make_scores(hippocampus, "MM-UNet", 0.77, condition="noise10"),
        *make_scores(hippocampus, "MM-UNet's twin", 0.6, folds=("0", "1")),
        *make_scores(hippocampus, "MM-UNet's twin", 0.65, condition="noflips"),
    ]
    trained = [score for score in scores if not score.method.condition]
    dice, hd95 = (hippocampus.compare_metric(trained, metric) for metric in ("dice", "hd95"))
    assert dice.n_cases == 8
    table = hippocampus.network_table(dice, hd95).splitlines()
    assert [row.split(" | ")[1:3] for row in table[2:]] == [
        ["0.700 (0.002)", "7.00"],
        ["0.800 (0.002)", "8.00"],
        ["0.600 (0.002)", "6.00"],
    ]
    assert table[3].startswith("| MM-UNet | ") and "| +0.2000 (+0.2000 to +0.2000), better | " in table[3]
    changes = hippocampus.compare_metric(hippocampus.compare_with_no_flips(scores), "dice")
    assert [row.rstrip("| ") for row in hippocampus.condition_table(dice, changes).splitlines()[2:]] == [
        "| nnU-Net | 0.700 | 0.680",
        "| MM-UNet | 0.800, +0.200* | 0.750, +0.100* | 0.770",
        "| MM-UNet's twin | 0.600 | 0.650",
    ]
    (noisy,) = changes.select_case_means("under another condition")  # beside no flips, not as trained
    assert noisy.difference == pytest.approx(0.02)


def test_the_rows_and_columns_of_the_tables_are_the_methods_and_conditions_of_the_study(hippocampus):
    study = hippocampus.STUDY
    rows = [hippocampus.find_method(title)[:2] for title in hippocampus.NETWORKS]
    assert sorted(rows) == sorted((method["trainer"], method["plans"]) for method in study["methods"])
    assert set(hippocampus.CONDITIONS) == {"", *study["conditions"]}
    assert str(hippocampus.find_method(hippocampus.BASELINE)) == study["baseline"]


def test_the_table_of_docs_benchmark_is_that_of_the_committed_scores(hippocampus):
    scores = hippocampus.read_table(ROOT / "benchmarks" / "results" / "hippocampus_3d" / "scores.parquet")
    trained = [score for score in scores if not score.method.condition]
    table = hippocampus.network_table(*(hippocampus.compare_metric(trained, k) for k in ("dice", "hd95")))
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert f"<!-- hippocampus_3d -->\n{table}\n<!-- end -->" in page
