"""Tables of scores, as `evaluate` would write them."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from nnunet_mamba.study.evaluation import Score

MakeScores = Callable[..., list[Score]]


@pytest.fixture
def make_scores() -> MakeScores:
    """Rows of one method: a value for each case, or for each case and label."""

    def make(trainer: str, values: Mapping[str, object], **fields: object) -> list[Score]:
        common = {"trainer": trainer, "plans": "nnUNetPlans", "configuration": "3d_fullres", "fold": "0"}
        common |= {"metric": "dice", "dataset": "Dataset001_A", "backend": "own", "version": "1"}
        common |= {"protocol": "honest", "n_voxels": 10, "empty": ""}
        folds = fields.pop("folds", {})
        return [
            Score(
                case=case,
                label=str(i),
                label_name=f"organ{i}",
                value=float(v),
                **{**common, "fold": folds.get(case, common["fold"]), **fields},
            )
            for case, each in values.items()
            for i, v in enumerate(np.atleast_1d(each), start=1)
        ]

    return make


@pytest.fixture
def make_table(make_scores) -> MakeScores:
    """nnU-Net at 0.5 on eight cases of two labels, and a method for each gain."""

    def make(*gains: float, **fields: object) -> list[Score]:
        values = {f"case_{i}": np.array([0.5, 0.5 + i / 100]) for i in range(8)}
        scores = make_scores("nnUNetTrainer", values, **fields)
        for name, gain in zip("ABCD", gains, strict=False):
            scores += make_scores(f"nnUNetTrainer{name}", {c: v + gain for c, v in values.items()}, **fields)
        return scores

    return make


@pytest.fixture
def acdc(make_scores) -> list[Score]:
    """60 patients with 2 frames and 3 labels in 5 folds; four methods, of which the twin differs by noise."""
    rng = np.random.default_rng(7)
    cases = [f"patient{p:03d}_frame{f:02d}" for p in range(60) for f in (1, 12)]
    folds = {case: str(i // 2 % 5) for i, case in enumerate(cases)}
    easy = np.repeat(rng.normal(0.90, 0.03, (60, 3)), 2, axis=0)
    scores = []
    for trainer, gain in (("", 0.0), ("MMUNet", 0.006), ("MMUNetNoSSM", 0.006), ("VMUNet", -0.03)):
        own = np.repeat(rng.normal(gain, 0.012, (60, 1)), 2, axis=0)
        values = (easy + own + rng.normal(0, 0.004, easy.shape)).clip(0, 1)
        by_case = dict(zip(cases, values, strict=True))
        scores += make_scores(f"nnUNetTrainer{trainer}", by_case, folds=folds, dataset="Dataset027_ACDC")
    return scores
