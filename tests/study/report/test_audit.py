"""Audit of papers' numbers: worked by hand, its assumptions from the benchmark, the page in docs."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.io.document import render_markdown
from nnunet_mamba.study.report.audit import (
    CORRELATIONS,
    SDS_OF_DIFFERENCES,
    audit_pairs,
    build_audit,
    build_audit_table,
)
from nnunet_mamba.study.report.published import PublishedTable, read_all_published_tables
from nnunet_mamba.study.statistics.significance import false_claim_probability

ROOT = Path(__file__).parents[3]
SCORES = ROOT / "benchmarks/results/hippocampus/scores.parquet"


def make_table(values, **fields):
    common = {"source": "A et al., arXiv:1", "dataset": "acdc", "metric": "dice", "scale": 100, "n_cases": 25}
    words = dict.fromkeys(("protocol", "split", "cases", "training"), "test")
    return PublishedTable(**{**common, **words, "values": values, **fields})


def test_a_pair_by_hand():
    """SDs 3 and 4, correlated by 0.51: of differences 3.57, t = 2 * 5 / 3.57 = 2.80, which 0.5 % exceed."""
    table = make_table({"mm_unet": 82, "nnunet": 80}, deviations={"mm_unet": 3, "nnunet": 4})
    (pair,) = audit_pairs([table])
    assert (pair.better, pair.other, pair.difference, pair.n) == ("mm_unet", "nnunet", 0.02, 25)
    least, largest = ((25 - 24 * r) ** 0.5 / 100 for r in (0.93, 0.51))
    assert pair.sds == pytest.approx((least, largest))
    assert pair.probabilities == (false_claim_probability(0.02, least, 25), pytest.approx(0.005, abs=1e-4))
    assert false_claim_probability(0.02, pair.largest_sd, 25) == pytest.approx(0.05)


def test_pairs_are_with_nnunet_and_without_mixers_and_the_better_comes_first():
    table = make_table(
        {"nnunet": 83, "umamba_bot": 82, "umamba_bot_nossm": 81, "swin_unetr": 90, "umamba": 84}
    )
    assert [(p.better, p.other, round(p.difference, 4)) for p in audit_pairs([table])] == [
        ("nnunet", "umamba_bot", 0.01),
        ("umamba_bot", "umamba_bot_nossm", 0.01),
        ("umamba", "nnunet", 0.01),
    ]


def test_of_distances_less_is_better_and_patients_count():
    table = make_table({"nnunet": 5.0, "mm_unet": 4.0}, metric="hd95", scale=1, n_patients=12)
    (pair,) = audit_pairs([table])
    assert (pair.better, pair.difference, pair.n, pair.sds) == ("mm_unet", -1.0, 12, None)
    assert pair.largest_sd == pytest.approx(12**0.5 / 1.796, rel=1e-3)  # t of 11 degrees at 0.95
    row = build_audit_table([pair]).rows[0]
    assert row[:5] == ("A et al., arXiv:1", "acdc, test", "HD95", "mm_unet", "nnunet")
    assert row[7:9] == ("–", "–")


def test_what_is_assumed_is_what_the_benchmark_has():
    scores = pd.read_parquet(SCORES)
    scores = scores[scores["metric"] == "dice"]
    scores = scores.assign(method=scores["trainer"] + scores["plans"])
    means = scores.pivot_table(index="case", columns="method", values="value")
    pairs = list(combinations(means, 2))
    assert (len(pairs), len(means)) == (55, 197)
    correlations = [means[a].corr(means[b]) for a, b in pairs]
    sds = [(means[a] - means[b]).std() for a, b in pairs]
    assert np.quantile(correlations, [0.05, 0.95]) == pytest.approx(CORRELATIONS, abs=0.005)
    assert np.quantile(sds, [0.05, 0.95]) == pytest.approx(SDS_OF_DIFFERENCES["dice"], abs=0.0005)


def test_deviations_are_of_networks_with_a_value_and_say_where_they_were_read():
    tables = [table for table in read_all_published_tables() if table.deviations]
    assert {table.dataset for table in tables} == {"flare22", "abdomen_mr"}
    for table in tables:
        assert table.deviations.keys() <= table.values.keys() and table.deviations_from
        assert all(0 < sd < 0.5 * table.scale for sd in table.deviations.values())


def test_the_page_in_the_docs_is_what_the_code_makes(tmp_path, capsys):
    text = (ROOT / "docs/published.md").read_text(encoding="utf-8")
    assert text == render_markdown(build_audit()), "nnunet-mamba compare --published --out docs/published.md"
    assert main(["compare", "--published", "--out", str(tmp_path / "a.md")]) == 0
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == text
    capsys.readouterr()
    assert main(["compare", "--published"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected tables of scores"),
        (["--published", "t.csv"], "expected tables of scores"),
        (["--published", "--out", "a.json"], "should end in .md"),
        (
            ["--published", "--metric", "hd95", "--n-bootstrap", "100"],
            "--metric, --n-bootstrap: about tables",
        ),
    ],
)
def test_what_is_compared_is_said_once(words, message, capsys):
    assert main(["compare", *words]) == 2
    assert message in capsys.readouterr().err
