"""Pairs that are compared, their numbers and verdicts."""

import random
from dataclasses import replace

import numpy as np
import pytest

from nnunet_mamba.study.evaluation.metrics import METRICS
from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.compare import decide_verdict, higher_is_better
from nnunet_mamba.study.statistics.methods import BASELINE, SIZE_TWIN, TWIN, UNDER_CONDITION
from nnunet_mamba.study.statistics.output import as_json
from nnunet_mamba.study.statistics.results import CASE_MEAN

NAN = float("nan")
CASES = [f"case_{i}" for i in range(8)]


def only(studies, **wanted):
    (study,) = studies
    (found,) = [c for c in study.comparisons if all(getattr(c, k) == v for k, v in wanted.items())]
    return found


def test_twins_come_first_then_all_against_the_baseline(acdc):
    (study,) = compare(acdc, group=r"patient\d+", n_bootstrap=200)
    assert [(c.against, c.method, c.other) for c in study.comparisons if c.label == CASE_MEAN] == [
        (TWIN.against, "MMUNet", "MMUNetNoSSM"),
        (BASELINE, "MMUNet", "nnUNet"),
        (BASELINE, "MMUNetNoSSM", "nnUNet"),
        (BASELINE, "VMUNet", "nnUNet"),
    ]
    assert [c.verdict for c in study.comparisons if c.label == CASE_MEAN] == [
        "not better", "better", "better", "worse",
    ]  # fmt: skip
    assert (study.n_cases, study.n_patients, study.comparisons[0].n_pairs) == (120, 60, 60)
    assert {(c.family, c.n_family) for c in study.comparisons} == {
        (f"{TWIN.against}, case means", 1), (f"{TWIN.against}, labels", 3),
        (f"{BASELINE}, case means", 3), (f"{BASELINE}, labels", 9),
    }  # fmt: skip
    assert [m.fold_means.keys() for m in study.methods] == [dict.fromkeys("01234").keys()] * 4


def test_two_twins_alone_are_compared_once(make_scores):
    values = {case: 0.5 + i / 50 for i, case in enumerate(CASES)}
    scores = make_scores("nnUNetTrainerX", values) + make_scores("nnUNetTrainerXNoSSM", values)
    (study,) = compare(scores, n_bootstrap=100)
    assert [(c.against, c.verdict, c.p) for c in study.comparisons] == [(TWIN.against, "not better", 1.0)]


def test_one_comparison_by_hand(make_scores):
    """Gains 0.01 to 0.07 and a loss of 0.08 on the eight cases of one label."""
    gains = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, -0.08]
    folds = {case: str(i // 4) for i, case in enumerate(CASES)}
    scores = make_scores("nnUNetTrainer", dict.fromkeys(CASES, 0.5), folds=folds)
    scores += make_scores(
        "nnUNetTrainerA", {c: 0.5 + g for c, g in zip(CASES, gains, strict=True)}, folds=folds
    )
    c = only(compare(scores, n_bootstrap=100))
    assert c.difference == pytest.approx(0.2 / 8)
    assert (c.mean, c.mean_other) == pytest.approx((0.525, 0.5))
    assert c.fold_differences == pytest.approx({"0": 0.025, "1": 0.025})
    assert c.p == pytest.approx(2 * 25 / 2**8)  # 25 subsets of 1..8 have a sum of at most 8
    assert (c.rank_biserial, c.win_rate) == pytest.approx(((28 - 8) / 36, 7 / 8))
    assert c.verdict == "not better"


def test_a_patient_counts_once_in_the_test_however_many_cases_it_has(make_scores):
    """Six patients, of whom the one with ten cases loses least: its rank is 1 of 1 to 6."""
    losses = {f"p0_{i}": -0.01 for i in range(10)}
    gains = losses | {f"p{i}_0": (i + 1) / 100 for i in range(1, 6)}
    scores = make_scores("nnUNetTrainer", dict.fromkeys(gains, 0.5))
    scores += make_scores("nnUNetTrainerA", {case: 0.5 + gain for case, gain in gains.items()})
    c = only(compare(scores, group=r"p\d", n_bootstrap=100))
    assert c.p == pytest.approx(2 * 2 / 2**6)  # 2 subsets of 1..6 have a sum of at most 1
    assert (c.rank_biserial, c.win_rate) == pytest.approx(((20 - 1) / 21, 5 / 6))
    assert c.difference == pytest.approx((0.2 - 0.1) / 15)  # the mean is over cases


def test_cases_keep_their_patients_where_others_are_undefined(make_scores):
    """Patients of two cases each gain 1, -2, 3, -4, 5 and -6 hundredths; the first case has no value."""
    gains = {f"p{i}_{f}": (-1) ** i * (i + 1) / 100 for i in range(6) for f in range(2)}
    base = dict.fromkeys(gains, 0.5) | {"p0_0": NAN}
    scores = make_scores("nnUNetTrainer", base)
    scores += make_scores("nnUNetTrainerA", {case: base[case] + gain for case, gain in gains.items()})
    c = only(compare(scores, group=r"p\d", n_bootstrap=100))
    assert (c.n_cases, c.n_pairs) == (11, 6)
    assert c.rank_biserial == pytest.approx((1 - 2 + 3 - 4 + 5 - 6) / 21)


def test_rankings_resample_the_patients_of_the_cases_that_are_defined(make_scores):
    """Both defined cases are of one patient, so that no resample can exchange the methods."""
    scores = make_scores("A", {"p0_0": NAN, "p1_0": 0.9, "p1_1": 0.1})
    scores += make_scores("B", {"p0_0": NAN, "p1_0": 0.4, "p1_1": 0.5})
    (study,) = compare(scores, group=r"p\d", n_bootstrap=100)
    assert [(p.method, p.rank_shares) for p in study.rankings[0].places] == [("A", (1, 0)), ("B", (0, 1))]


def test_a_verdict_follows_the_corrected_p(make_scores):
    """Six gains of six have p = 2 / 64; of two such tests Holm makes 4 / 64."""
    six = {f"case_{i}": 0.5 for i in range(6)}
    scores = make_scores("nnUNetTrainer", six)
    for trainer, step in (("A", 0.01), ("B", 0.02)):
        better = {case: 0.5 + step * (i + 1) for i, case in enumerate(six)}
        scores += make_scores(f"nnUNetTrainer{trainer}", better)
    (study,) = compare(scores, n_bootstrap=100)
    assert [c.p for c in study.comparisons] == pytest.approx([2 / 64] * 2)
    assert [c.p_holm for c in study.comparisons] == pytest.approx([4 / 64] * 2)
    assert {c.verdict for c in study.comparisons} == {"not better"}


def test_ranks_without_a_difference_of_means_are_mixed(make_table):
    c = only(compare(make_table(0.1), n_bootstrap=100), label=CASE_MEAN)
    assert decide_verdict(replace(c, p_holm=0.01, difference=0.0), higher=True) == "mixed"
    assert decide_verdict(c, higher=True) == "better" and decide_verdict(c, higher=False) == "mixed"


def test_every_metric_has_one_direction():
    lower = {"hd95", "hd100", "assd", "masd", "asd", "volume_error"}
    assert {metric for metric in METRICS if not higher_is_better(metric)} == lower


def test_the_comparison_of_fewest_pairs_is_warned_of(make_table):
    scores = make_table(0.1, 0.2)
    undefined = [
        replace(s, value=NAN) if s.trainer.endswith("B") and s.case in CASES[:3] else s for s in scores
    ]
    (study,) = compare(undefined, n_bootstrap=100)
    assert [c.n_pairs for c in study.comparisons if c.label == CASE_MEAN] == [8, 5]
    assert study.warnings[0].startswith("5 pairs; with fewer than 6 ")


def test_fold_means_and_their_sd(make_scores):
    folds = {"a": "2", "b": "2", "c": "10", "d": "test", "e": "all"}
    values = {"a": 0.5, "b": 0.7, "c": 0.8, "d": 0.1, "e": 0.1}
    (study,) = compare(
        make_scores("X", values, folds=folds) + make_scores("Y", values, folds=folds), n_bootstrap=100
    )
    assert study.methods[0].fold_means == pytest.approx({"2": 0.6, "10": 0.8})
    assert list(study.methods[0].fold_means) == ["2", "10"]
    assert study.methods[0].sd_over_folds == pytest.approx(0.2 / 2**0.5)


def test_of_distances_less_is_better(make_scores):
    low = {case: [1.0 + i / 10] for i, case in enumerate(CASES)}
    high = {case: [3.0 + i / 9] for i, case in enumerate(CASES)}
    scores = make_scores("nnUNetTrainer", high, metric="hd95") + make_scores(
        "nnUNetTrainerA", low, metric="hd95"
    )
    c = only(compare(scores, metric="hd95", n_bootstrap=100))
    assert (c.verdict, c.win_rate, c.rank_biserial) == ("better", 1, 1)
    assert c.difference < 0 and c.ci_high < 0


def test_undefined_values_are_left_out_of_both_methods(make_scores):
    """Case 0: only label 1 is counted. Case 1: nothing is. Case 2: whole."""
    base = make_scores("nnUNetTrainer", {"0": [0.5, 0.9], "1": [NAN, NAN], "2": [0.5, 0.7]})
    other = make_scores("nnUNetTrainerA", {"0": [0.6, NAN], "1": [NAN, NAN], "2": [0.6, 0.8]})
    c = only(compare(base + other, n_bootstrap=100), label=CASE_MEAN)
    assert (c.n_cases, c.n_excluded, c.n_one_sided) == (2, 3, 1)
    assert c.difference == pytest.approx(0.1)
    assert (c.mean, c.mean_other) == pytest.approx(((0.6 + 0.7) / 2, (0.5 + 0.6) / 2))
    (study,) = compare(base + other, n_bootstrap=100)
    assert study.case_means["nnUNet"] == pytest.approx({"0": 0.5, "2": 0.6})  # what is ranked
    assert study.case_means["A"] == pytest.approx({"0": 0.6, "2": 0.7})
    assert study.methods[0].mean == pytest.approx((0.7 + 0.6) / 2)  # by itself, with all that it has
    c = only(compare(base + other, n_bootstrap=100), label="2")
    assert (c.n_cases, c.n_excluded, c.n_one_sided) == (1, 2, 1)
    c = only(compare(base + other, baseline="A", n_bootstrap=100), label=CASE_MEAN)
    assert (c.n_cases, c.n_excluded, c.n_one_sided) == (2, 3, 1)
    assert c.difference == pytest.approx(-0.1)


def test_a_label_that_nobody_has_is_not_tested(make_scores):
    values = {case: [0.5, NAN] for case in CASES}
    studies = compare(
        make_scores("nnUNetTrainer", values) + make_scores("nnUNetTrainerA", values), n_bootstrap=100
    )
    c = only(studies, label="2")
    assert (c.n_pairs, c.n_family, c.verdict) == (0, 1, "too few pairs")
    assert np.isnan([c.p, c.p_holm, c.difference, c.ci_low, c.win_rate]).all()


def test_most_pairs_and_the_mean_may_disagree(make_scores):
    """A small gain on 19 cases, a catastrophe on one."""
    cases = [f"case_{i}" for i in range(20)]
    base = make_scores("nnUNetTrainer", dict.fromkeys(cases, 0.8))
    other = make_scores("nnUNetTrainerA", {c: 0.81 + i / 1e4 if i else 0.0 for i, c in enumerate(cases)})
    c = only(compare(base + other, n_bootstrap=100))
    assert c.p_holm < 0.05 and c.difference < 0 < c.rank_biserial
    assert c.verdict == "mixed"


def test_frames_of_one_patient_are_one_pair(make_scores):
    """Five patients with four frames each: however many frames, five pairs prove nothing."""
    cases = [f"patient{p}_frame{f}" for p in range(5) for f in range(4)]
    scores = make_scores("nnUNetTrainer", dict.fromkeys(cases, 0.5))
    scores += make_scores("nnUNetTrainerA", {c: 0.6 + i / 100 for i, c in enumerate(cases)})
    grouped = only(compare(scores, group=r"patient\d+", n_bootstrap=100))
    assert (grouped.n_cases, grouped.n_pairs, grouped.verdict) == (20, 5, "too few pairs")
    assert np.isclose(grouped.difference, 0.195)
    naive = compare(scores, n_bootstrap=100)
    assert grouped.ci_high - grouped.ci_low > 1.5 * (only(naive).ci_high - only(naive).ci_low)
    assert only(naive).verdict == "better"
    assert "patient0_frame0 and patient0_frame1 look like one patient" in naive[0].warnings[0]


def test_the_order_of_rows_does_not_matter(acdc):
    acdc = [replace(s, version=s.label) for s in acdc]  # and of a warning neither
    shuffled = random.Random(0).sample(acdc, len(acdc))
    first, second = (compare(s, group=r"patient\d+", n_bootstrap=100) for s in (acdc, shuffled))
    assert as_json(first) == as_json(second)


def test_labels_come_by_number_and_regions_behind_their_first(make_table):
    scores = make_table(0.1)
    more = [replace(s, label=label) for s in scores if s.label == "1" for label in ("10", "1+2", "2+10")]
    (study,) = compare(scores + more, n_bootstrap=100)
    assert [number for number, _ in study.labels] == ["1", "1+2", "2", "2+10", "10"]


def test_each_dataset_is_a_study_and_a_family_of_its_own(make_scores, make_table):
    scores = make_table(0.1) + make_table(0.1, -0.1, dataset="Dataset002_B")
    scores += make_scores("nnUNetTrainer", {"case": 0.5}, dataset="Dataset003_C")
    studies = compare(scores, n_bootstrap=100)
    assert [s.dataset for s in studies] == ["Dataset001_A", "Dataset002_B"]
    assert [s.comparisons[0].n_family for s in studies] == [1, 2]
    assert "left out, without a second method: Dataset003_C" in studies[0].warnings


# A margin


@pytest.fixture
def close(make_scores):
    """nnU-Net on 30 cases; A differs by noise of 0.001, B gains 0.002 on every case, C 0.1."""
    rng = np.random.default_rng(0)
    base = {f"case_{i:02d}": 0.5 + i / 100 for i in range(30)}
    scores = make_scores("nnUNetTrainer", base)
    for name, gain in (("A", 0.0), ("B", 0.002), ("C", 0.1)):
        own = {case: value + gain + rng.normal(0, 0.001) for case, value in base.items()}
        scores += make_scores(f"nnUNetTrainer{name}", own)
    return scores


def test_no_difference_is_a_finding_where_a_margin_was_named(close):
    (plain,) = compare(close, n_bootstrap=200)
    (found,) = compare(close, margin=0.01, n_bootstrap=200)
    assert [c.verdict_text for c in plain.comparisons] == ["not better", "better", "better"]
    assert [c.verdict_text for c in found.comparisons] == [
        "equivalent", "better, by less than the margin", "better",
    ]  # fmt: skip
    assert [c.verdict for c in found.comparisons] == ["equivalent", "better", "better"]
    (narrow,) = compare(close, margin=0.0001, n_bootstrap=200)
    assert [c.verdict_text for c in narrow.comparisons] == ["not better", "better", "better"]


def test_without_a_margin_nothing_is_tested_against_it(close):
    (plain,) = compare(close, n_bootstrap=200)
    assert np.isnan([plain.margin, *(c.p_equivalence for c in plain.comparisons)]).all()
    assert not any(c.is_within_margin for c in plain.comparisons) and not plain.has_margin


def test_tests_of_equivalence_are_corrected_within_their_family(make_scores):
    """Six cases within the margin: 1 / 64, of two such tests 2 / 64."""
    base = {f"case_{i}": 0.5 for i in range(6)}
    scores = make_scores("nnUNetTrainer", base)
    for trainer in "AB":
        own = {case: 0.5 + (-1) ** i * (i + 1) / 1000 for i, case in enumerate(base)}
        scores += make_scores(f"nnUNetTrainer{trainer}", own)
    (study,) = compare(scores, margin=0.01, n_bootstrap=1000)
    assert [c.p_equivalence for c in study.comparisons] == pytest.approx([1 / 64] * 2)
    assert [c.p_equivalence_holm for c in study.comparisons] == pytest.approx([2 / 64] * 2)
    assert [c.verdict for c in study.comparisons] == ["equivalent"] * 2


@pytest.mark.parametrize("margin", [0.0, -0.01, NAN, float("inf")])
def test_a_margin_is_a_positive_number(close, margin):
    with pytest.raises(ValueError, match=r"The margin is .*; expected a positive number"):
        compare(close, margin=margin, n_bootstrap=100)


def test_five_pairs_are_too_few_to_be_equivalent(make_scores):
    values = {f"case_{i}": 0.5 + i / 1e4 for i in range(5)}
    scores = [s for name in "AB" for s in make_scores(name, values)]
    c = only(compare(scores, margin=0.1, n_bootstrap=1000))
    assert (c.verdict_text, c.is_within_margin) == ("too few pairs", False)
    assert c.p_equivalence < 0.05


def test_the_probability_of_a_false_claim_is_of_patients_means(make_scores):
    """Two patients, of means 0.1 and 0.3: mean 0.2, SE 0.1; of Cauchy's t beyond 2 lies 0.148."""
    gains = {"p0_0": 0.0, "p0_1": 0.2, "p1_0": 0.3}
    scores = make_scores("A", dict.fromkeys(gains, 0.5))
    scores += make_scores("B", {case: 0.5 + gain for case, gain in gains.items()})
    c = only(compare(scores, group=r"p\d", n_bootstrap=100))
    assert c.p_false_claim == pytest.approx(0.5 - np.arctan(2) / np.pi)


# Seeds


def test_values_are_means_over_the_seeds(make_scores):
    """Seeds of A gain 0.1 and 0.3; those of the other are the same."""
    values = {case: 0.3 + i / 50 for i, case in enumerate(CASES)}
    folds = {case: str(i % 2) for i, case in enumerate(CASES)}
    scores = []
    for trainer, gains in (("", (0.0, 0.0)), ("A", (0.1, 0.3))):
        for seed, gain in zip("73", gains, strict=True):
            own = {case: value + gain for case, value in values.items()}
            scores += make_scores(f"nnUNetTrainer{trainer}", own, folds=folds, seed=seed)
    (study,) = compare(scores, n_bootstrap=1000)
    (c,), methods = study.comparisons, {m.method: m for m in study.methods}
    assert (study.n_seeds, study.resampled, study.paired) == (2, "cases and seeds", "cases")
    assert c.difference == pytest.approx(0.2) and (c.p, c.n_pairs) == (2 / 2**8, 8)
    assert (c.ci_low, c.ci_high) == pytest.approx((0.1, 0.3), abs=0.02)  # patients all gain alike
    assert methods["A"].mean == pytest.approx(0.37 + 0.2)
    assert methods["A"].seed_means == pytest.approx({"3": 0.37 + 0.3, "7": 0.37 + 0.1})
    assert list(methods["A"].seed_means) == ["3", "7"]
    assert methods["A"].sd_over_seeds == pytest.approx(0.2 / 2**0.5)
    assert study.case_means["A"][CASES[0]] == pytest.approx(0.5)
    assert not any("seeds of one fold" in text for text in study.warnings)
    (one_fold,) = compare([replace(s, fold="0") for s in scores], n_bootstrap=100)
    assert any(text.startswith("2 seeds of one fold: ") for text in one_fold.warnings)


def test_what_one_training_leaves_undefined_is_left_out_of_all(make_scores):
    scores = make_scores("A", {"0": [0.5, 0.9], "1": [0.5, 0.7]}, seed="0")
    scores += make_scores("A", {"0": [0.5, NAN], "1": [0.5, 0.7]}, seed="1")
    scores += [s for k in "01" for s in make_scores("B", {"0": [0.6, 0.1], "1": [0.6, 0.8]}, seed=k)]
    c = only(compare(scores, n_bootstrap=100), label=CASE_MEAN)
    assert (c.n_excluded, c.n_one_sided) == (1, 1)
    assert (c.mean, c.mean_other) == pytest.approx(((0.6 + 0.7) / 2, (0.5 + 0.6) / 2))


def test_one_seed_of_each_method_may_be_any(make_scores):
    values = {case: 0.5 + i / 50 for i, case in enumerate(CASES)}
    scores = make_scores("A", values, seed="0") + make_scores("B", values, seed="12")
    (study,) = compare(scores, n_bootstrap=100)
    assert (study.n_seeds, study.resampled) == (1, "cases")
    assert [m.sd_over_seeds for m in study.methods] == pytest.approx([NAN, NAN], nan_ok=True)


# Conditions


def test_a_network_under_a_condition_is_compared_with_itself_and_its_like(make_scores):
    values = {case: 0.5 + i / 50 for i, case in enumerate(CASES)}
    names = ("", "@noise10", "X", "X@noise10", "X_Conv", "XNoSSM@noise10")
    scores = [s for name in names for s in make_scores(f"nnUNetTrainer{name}", values)]
    (study,) = compare(scores, n_bootstrap=100)
    assert study.baseline == "nnUNet"
    assert [(c.against, c.method, c.other) for c in study.comparisons] == [
        (TWIN.against, "X@noise10", "XNoSSM@noise10"),
        (SIZE_TWIN.against, "X", "X_Conv"),
        (UNDER_CONDITION.against, "nnUNet@noise10", "nnUNet"),
        (UNDER_CONDITION.against, "X@noise10", "X"),
        (BASELINE, "X", "nnUNet"),
        (BASELINE, "X@noise10", "nnUNet@noise10"),
        (BASELINE, "XNoSSM@noise10", "nnUNet@noise10"),
        (BASELINE, "X_Conv", "nnUNet"),
    ]
    assert study.families == [r.against for r in (TWIN, SIZE_TWIN, UNDER_CONDITION)] + [BASELINE]


def test_tests_under_a_condition_are_corrected_by_themselves(make_scores):
    """Further conditions ask further questions; what was shown of the networks as trained stays shown."""
    names = ("", "X", "Y", "@noise10", "X@noise10", "@flips", "X@flips")
    scores = [
        s for name in names for s in make_scores(f"nnUNetTrainer{name}", {f"c{i}": 0.5 for i in range(6)})
    ]
    (study,) = compare(scores, n_bootstrap=200)
    sizes = {(c.against, c.condition): c.n_family for c in study.comparisons}
    assert sizes == {
        (BASELINE, ""): 2,
        (BASELINE, "noise10"): 1,
        (BASELINE, "flips"): 1,
        (UNDER_CONDITION.against, "noise10"): 2,
        (UNDER_CONDITION.against, "flips"): 2,
    }


def test_trainings_of_a_network_count_once_under_all_of_its_conditions(make_scores):
    """Noise costs each of the trainings, which differ much, 0.1: of that there is no doubt."""
    scores = []
    for seed, level in zip("012", (0.2, 0.5, 0.8), strict=True):
        for name, cost in (("X", 0.0), ("X@noise10", 0.1), ("Y", 0.1)):
            scores += make_scores(f"nnUNetTrainer{name}", dict.fromkeys(CASES, level - cost), seed=seed)
    (study,) = compare(scores, baseline="X", n_bootstrap=200)
    widths = {c.method: c.ci_high - c.ci_low for c in study.comparisons}
    assert widths["X@noise10"] == pytest.approx(0, abs=1e-9) and widths["Y"] > 0.2
