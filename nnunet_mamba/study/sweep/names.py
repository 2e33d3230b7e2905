"""What the jobs of a study are called, and where their results lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.nnunet.commands import dataset_id
from nnunet_mamba.study.sweep.study import CASCADE, Dataset, Method, Study, TestSet

CROSSVAL = "crossval"  # the folds' own validation cases, beside the names of test sets


@dataclass(frozen=True)
class Names:
    """Of one dataset of a study."""

    study: Study
    dataset: Dataset

    @property
    def number(self) -> str:
        return dataset_id(self.dataset.name)

    @property
    def raw(self) -> Path:
        return self.study.folders["nnUNet_raw"] / self.dataset.name

    @property
    def preprocessed(self) -> Path:
        return self.study.folders["nnUNet_preprocessed"] / self.dataset.name

    def fold(self, method: Method, seed: int | None, fold: str) -> Path:
        return self.study.results(seed) / self.dataset.name / str(method) / f"fold_{fold}"

    def predictions(self, method: Method, seed: int | None, test: str) -> Path:
        return self.study.out / "predictions" / self.dataset.name / test / named(method, seed)

    def table(self, method: Method, seed: int | None, test: str, protocol: str) -> Path:
        name = f"{named(method, seed)}.{protocol}.parquet"
        return self.study.out / "tables" / self.dataset.name / test / name

    def job(self, kind: str, *parts: object) -> str:
        """train.Dataset004_Hippocampus.nnUNetTrainerMMUNet__nnUNetPlans__2d.fold_0"""
        return ".".join([kind, self.dataset.name, *(str(part) for part in parts if part != "")])

    def plan_job(self, plans: str) -> str:
        """The job that makes these plans; plans that the user made need the fingerprint alone."""
        return self.job("fingerprint") if self.study.plans[plans].own else self.job("plan", plans)

    def preprocessed_of(self, method: Method) -> tuple[str, str]:
        """Plans and configuration whose data a method reads. A template changes nothing that preprocessing
        depends on: the data of the plans below it serve."""
        plans = self.study.plans[method.plans]
        while plans.template:
            plans = self.study.plans[plans.source]
        return plans.name, "3d_fullres" if method.configuration == CASCADE else method.configuration

    def preprocess_job(self, method: Method) -> str:
        return self.job("preprocess", *self.preprocessed_of(method))

    def train_job(self, method: Method, seed: int | None, fold: str) -> str:
        return self.job("train", named(method, seed), f"fold_{fold}")

    def train_jobs(self, method: Method, seed: int | None) -> list[str]:
        return [self.train_job(method, seed, fold) for fold in self.study.folds]

    def predict_jobs(self, method: Method, seed: int | None, test: TestSet) -> list[str]:
        """One for each part of the test set."""
        parts = [f"part_{k}" for k in range(test.parts)] if test.parts > 1 else [""]
        return [self.job("predict", test.name, named(method, seed), part) for part in parts]

    def evaluate_job(self, method: Method, seed: int | None, test: str, protocol: str) -> str:
        return self.job("evaluate", test, named(method, seed), protocol)


def named(method: Method, seed: int | None) -> str:
    return str(method) if seed is None else f"{method}.seed_{seed}"
