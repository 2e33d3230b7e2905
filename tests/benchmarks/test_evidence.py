"""The evidence on where mixers help: gathered in parts from what a sweep leaves; the table of the docs."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
LOG = "Epoch {k}\ntrain_loss 0\nval_loss 0\nPseudo dice [{a}, {b}]\nEpoch time: 1 s\n"
METHOD = "nnUNetTrainerMMUNet_longrange__shallow__2d"
NAMES = ("Dataset932_LongRange", *METHOD.split("__"), "0", "0")


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evidence")


def write_training(folder, evidence, dice, curve, seed="0"):
    """What a sweep leaves of one training: a table of two cases, and nnU-Net's log."""
    tables = folder / "study" / "tables" / NAMES[0] / "crossval"
    tables.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame({"case": ["a", "b"], "metric": "dice", "value": dice})
    columns = dict(zip(evidence.TRAINING[:-1], NAMES, strict=False))
    rows.assign(**columns).to_parquet(tables / f"{METHOD}.seed_{seed}.honest.parquet")
    fold = folder / "results" / f"seed_{seed}" / NAMES[0] / METHOD / "fold_0"
    fold.mkdir(parents=True, exist_ok=True)
    (fold / "debug.json").write_text(json.dumps({}))
    log = "".join(LOG.format(k=k, a=value, b=value) for k, value in enumerate(curve))
    (fold / "training_log_1.txt").write_text(log)


def read(folder, what):
    return pd.read_parquet(folder / "out" / f"{what}.parquet")


def test_gathering_again_replaces_a_training_and_keeps_the_others(evidence, tmp_path):
    where = (tmp_path / "out", tmp_path / "study", tmp_path / "results")
    write_training(tmp_path, evidence, [0.5, 0.6], [0.1, 0.2])
    write_training(tmp_path, evidence, [0.7, 0.8], [0.3], seed="1")
    evidence.gather(*where)
    write_training(tmp_path, evidence, [0.9, 1.0], [0.4, 0.5, 0.6])
    (tmp_path / "study" / "tables" / NAMES[0] / "crossval" / f"{METHOD}.seed_1.honest.parquet").unlink()
    evidence.gather(*where)
    scores, curves = read(tmp_path, "scores"), read(tmp_path, "curves")
    assert list(scores["value"]) == [0.9, 1.0, 0.7, 0.8]
    assert list(curves["dice"]) == pytest.approx([0.4, 0.5, 0.6, 0.3])
    assert list(curves["epoch"]) == [1, 2, 3, 1]


def test_a_curve_without_scores_is_of_a_training_that_is_not_finished(evidence, tmp_path):
    write_training(tmp_path, evidence, [0.5, 0.6], [0.1])
    unfinished = tmp_path / "results" / "seed_0" / NAMES[0] / METHOD.replace("MMUNet", "Control") / "fold_0"
    unfinished.mkdir(parents=True)
    (unfinished / "debug.json").write_text("{}")
    (unfinished / "training_log_1.txt").write_text(LOG.format(k=0, a=0.5, b=0.5))
    (unfinished.parent / "fold_1").mkdir()
    (unfinished.parent / "fold_1" / "debug.json").write_text("{}")  # without an epoch
    evidence.gather(tmp_path / "out", tmp_path / "study", tmp_path / "results")
    assert set(read(tmp_path, "curves")["trainer"]) == {NAMES[1]}


@pytest.mark.parametrize(
    "curve, steps",
    [([0.5, 0.95, 0.96], 50), ([0.95, 0.96], 25), ([0.95, 0.5, 0.95], 75), ([0.5, 0.95, 0.89], None)],
)
def test_solved_is_what_stays_solved(evidence, tmp_path, curve, steps):
    write_training(tmp_path, evidence, [0.95, 0.97], curve)
    evidence.gather(tmp_path / "out", tmp_path / "study", tmp_path / "results")
    scores, curves = read(tmp_path, "scores"), read(tmp_path, "curves")
    found = evidence.steps_to_solve(curves, "MMUNet", "shallow")
    assert found == ({32: steps} if steps else {})
    in_brackets = f" ({steps})" if steps else ""
    table = evidence.longrange_table(scores, curves)
    assert table == f"| network | 32 pixels |\n|---|---|\n| MM-UNet | 0.96{in_brackets} |"


def test_the_table_of_the_docs_is_that_of_the_committed_scores(evidence):
    folder = ROOT / "benchmarks" / "results" / "longrange"
    table = evidence.longrange_table(
        *(pd.read_parquet(folder / f"{k}.parquet") for k in ("scores", "curves"))
    )
    assert f"<!-- longrange -->\n{table}\n<!-- end -->" in (ROOT / "docs" / "longrange.md").read_text()
