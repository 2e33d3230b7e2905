"""Scores that cannot be compared, and warnings."""

import re
from dataclasses import replace

import pytest

from nnunet_mamba.study.statistics import compare
from nnunet_mamba.study.statistics.score_matrix import build_score_matrices


def changed(scores, index=-1, **fields):
    return [*scores[:index], replace(scores[index], **fields), *scores[index + 1 or len(scores) :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: changed(s, protocol="transunet"),
            r"different protocols: nnUNet: honest; A: honest and transunet\. Score all",
        ),
        (
            lambda s: [x for x in s if (x.trainer, x.case) != ("nnUNetTrainerA", "case_3")],
            r"Dataset001_A, dice: different cases: A lacks case_3\. Predict and score",
        ),
        (
            lambda s: [x for x in s if (x.trainer, x.label) != ("nnUNetTrainer", "2")],
            r"different labels: nnUNet lacks label 2 \(organ2\)\.",
        ),
        (lambda s: changed(s, label_name="spleen"), r"different labels: nnUNet lacks label 2 \(spleen\)"),
        (lambda s: s[:-1], r"different labels of cases: A lacks case_7 label 2 \(organ2\)\."),
        (
            lambda s: changed(changed(s, fold="3"), index=-2, fold="3"),
            r"fold differs by method: case_7 \(0 in nnUNet, 3 in A\)\. Train all",
        ),
        (
            lambda s: changed(s, n_voxels=11),
            r"n_voxels differs by method: case_7 label 2 \(organ2\) \(10 in nnUNet, 11 in A\)\.",
        ),
        (
            lambda s: [*s, replace(s[-1], fold="all")],
            r"rows appear twice \(fold 0, fold all\): A case_7 label 2 \(organ2\)\.",
        ),
        (lambda s: changed(s, value=float("inf")), r"infinite values have no mean: A case_7 label 2"),
        (lambda s: s[:16], r"one method only, nnUNetTrainer__nnUNetPlans__3d_fullres; add"),
        (lambda s: [], r"no row of the metric 'dice'; they have no rows at all"),
        (
            lambda s: [replace(x, dataset=x.trainer) for x in s],
            r"No dataset was scored with two methods: nnUNet, A share none",
        ),
    ],
)
def test_unfair_comparisons_are_refused(make_table, change, message):
    scores = change(make_table(0.1))
    with pytest.raises(ValueError, match=message):
        compare(scores, n_bootstrap=100)


def test_bad_options_are_refused(make_table):
    scores = make_table(0.1)
    with pytest.raises(ValueError, match=r"no row of the metric 'nsd'; they have dice\."):
        compare(scores, metric="nsd")
    with pytest.raises(
        ValueError, match="Whether more of 'loss' is better is not known; choose one of accuracy, "
    ):
        compare(scores, metric="loss")
    for group in ("patient", r"_\d"):  # not there at all, and not at the beginning
        with pytest.raises(
            ValueError, match=rf"'case_0' does not begin as --group has it \({re.escape(group)}"
        ):
            compare(scores, group=group)
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        compare(scores, group="(")
    with pytest.raises(ValueError, match="'C' is not a method"):
        compare(scores, baseline="C")
    with pytest.raises(ValueError, match="10 resamples are too few"):
        compare(scores, n_bootstrap=10)


@pytest.mark.parametrize(
    ("base", "other", "message"),
    [
        ({}, {"version": "2"}, "the values come from different programs: nnUNet: own 1; A: own 2"),
        ({}, {"fold": ""}, "the folds of A are not known"),
        ({"fold": ""}, {"fold": "all"}, "fold all: A trained on the cases that they are scored on"),
        (
            {},
            {"trainer": "nnUNetTrainerA_100epochs"},
            "trained for different lengths: nnUNet: its own; A_100epochs: 100epochs",
        ),
    ],
)
def test_what_should_be_known_is_warned_of(make_table, base, other, message):
    scores = [replace(s, **(other if s.trainer.endswith("A") else base)) for s in make_table(0.1)]
    (study,) = compare(scores, n_bootstrap=100)
    assert message in study.warnings


@pytest.mark.parametrize(
    "names", [[f"amos_{i:04d}" for i in range(40)], [f"ct_{i}" for i in range(20)] + ["mr_1"]]
)
def test_numbered_cases_do_not_look_like_one_patient(make_scores, names):
    values = dict.fromkeys(names, 0.5)
    (study,) = compare(make_scores("A", values) + make_scores("B", values), n_bootstrap=100)
    assert study.warnings == ()


def test_every_case_has_all_seeds_of_its_method(make_table):
    scores = [replace(s, seed=seed) for s in make_table(0.1) for seed in ("2", "10")]
    assert [m.seeds for m in build_score_matrices(scores, "dice")] == [(("2", "10"), ("2", "10"))]
    absent = [("nnUNetTrainerA", "case_3", label, "10") for label in "12"]
    for n in (1, 2):
        lacking = [s for s in scores if (s.trainer, s.case, s.label, s.seed) not in absent[-n:]]
        message = (
            rf"{n} labels of cases lack a seed .* A has case_3 label {3 - n} .* not with seed 10\. Score"
        )
        with pytest.raises(ValueError, match=message):
            build_score_matrices(lacking, "dice")


def test_methods_of_different_numbers_of_seeds_are_refused(make_table):
    scores = make_table(0.1)
    more = [replace(s, seed="1") for s in scores if s.trainer == "nnUNetTrainerA"]
    with pytest.raises(ValueError, match=r"different numbers of seeds: nnUNet: 1; A: 2|A: 2; nnUNet: 1"):
        build_score_matrices(scores + more, "dice")


def test_a_row_of_one_seed_appears_once(make_table):
    scores = [replace(s, seed="1") for s in make_table(0.1)]
    with pytest.raises(ValueError, match="Give each case of a method and seed once"):
        build_score_matrices([*scores, scores[0]], "dice")
