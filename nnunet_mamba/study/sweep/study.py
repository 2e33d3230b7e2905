"""A study as data: what is trained on what, how it is evaluated, and where its results lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.commands import get_dataset_id
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData

STOCK_PLANS, STOCK_PLANNER = "nnUNetPlans", "ExperimentPlanner"
CASCADE, LOWRES = "3d_cascade_fullres", "3d_lowres"
CROSSVAL = "crossval"  # the folds' own validation cases, beside the names of test sets


@dataclass(frozen=True)
class ConvertArguments:
    """Arguments of `nnunet-mamba convert`."""

    name: str
    sources: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestSet:
    """Images that no training sees; without `labels` they are predicted, not scored."""

    name: str
    images: Path
    labels: Path | None
    parts: int = 1  # jobs that share the prediction


@dataclass(frozen=True)
class Dataset:
    """Dataset of a study; `group` matches the patient in a case's name, as in `nnunet-mamba compare`."""

    name: str  # Dataset###_Name
    convert: ConvertArguments | None = None
    split: str | None = None
    group: str | None = None
    tests: tuple[TestSet, ...] = ()


@dataclass(frozen=True)
class Plans:
    """Plans and their origin: nnU-Net's planner of this name; a template over other plans; made for a network
    and a card (`vram_gb`); or, `own`, put into nnUNet_preprocessed by the user."""

    name: str
    planner: str | None = None
    template: str | None = None
    source: str = STOCK_PLANS
    network: str | None = None
    vram_gb: float | None = None
    own: bool = False


@dataclass(frozen=True)
class Condition:
    """Named conditions under which all folds are validated again, as options of `nnunet-mamba validate`."""

    name: str
    options: tuple[str, ...]
    needs_mixer: bool = False  # only for trainers whose network has one


@dataclass(frozen=True, kw_only=True)
class Study:
    """Content of a study file. Paths are absolute; `seeds` holds None for trainings without a seed."""

    name: str
    out: Path
    device: str
    folders: dict[str, Path]  # nnU-Net's three, by variable
    trainers_from: tuple[Path, ...] = ()
    variables: Mapping[str, str] = field(
        default_factory=dict
    )  # of trainings and predictions, and part of what makes them
    datasets: tuple[Dataset, ...]
    plans: dict[str, Plans]
    methods: tuple[Method, ...]
    folds: tuple[str, ...]
    seeds: tuple[int | None, ...] = (None,)
    protocols: tuple[str, ...] = ("honest",)
    metrics: tuple[str, ...] = ()
    tolerance_mm: tuple[str, ...] = ()
    baseline: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    threads: int
    gpus: int  # per training
    memory_gb: int = 32  # per training
    hours: int = 48  # at most, per training
    npz: bool = False
    mirroring: bool = True  # in prediction of test sets
    batched: bool = False  # predict with `nnunet-mamba predict`
    conditions: tuple[Condition, ...] = ()

    def results(self, seed: int | None) -> Path:
        """Return nnU-Net's results folder of one seed: trainings that differ only in it are kept apart."""
        base = self.folders["nnUNet_results"]
        return base if seed is None else base / f"seed_{seed}"


@dataclass(frozen=True)
class DatasetNames:
    """Names of the jobs, files and folders of one dataset of a study."""

    study: Study
    dataset: Dataset

    @property
    def number(self) -> str:
        return get_dataset_id(self.dataset.name)

    @property
    def raw(self) -> Path:
        return self.study.folders["nnUNet_raw"] / self.dataset.name

    @property
    def preprocessed(self) -> Path:
        return self.study.folders["nnUNet_preprocessed"] / self.dataset.name

    def fold(self, method: Method, seed: int | None, fold: str) -> Path:
        return self.study.results(seed) / self.dataset.name / str(method) / f"fold_{fold}"

    def predictions(self, method: Method, seed: int | None, test: str) -> Path:
        return self.study.out / "predictions" / self.dataset.name / test / method_name(method, seed)

    def table(self, method: Method, seed: int | None, test: str, protocol: str) -> Path:
        name = f"{method_name(method, seed)}.{protocol}.parquet"
        return self.study.out / "tables" / self.dataset.name / test / name

    def job(self, kind: str, *parts: object) -> str:
        """Return a name as train.Dataset004_Hippocampus.nnUNetTrainerMMUNet__nnUNetPlans__2d.fold_0."""
        return ".".join([kind, self.dataset.name, *(str(part) for part in parts if part != "")])

    def plan_job(self, plans: str) -> str:
        """Return the job that makes these plans; plans of the user's own need only the fingerprint."""
        return self.job("fingerprint") if self.study.plans[plans].own else self.job("plan", plans)

    def preprocessed_plans(self, method: Method) -> tuple[str, str]:
        """Return the plans and the configuration whose preprocessed data a method reads.

        A template changes nothing that preprocessing depends on, so the data of the plans below it are used.
        """
        plans = self.study.plans[method.plans]
        while plans.template:
            plans = self.study.plans[plans.source]
        return plans.name, "3d_fullres" if method.configuration == CASCADE else method.configuration

    @property
    def lock(self) -> Path:
        """Return the lock of what studies share of a dataset: its splits, fingerprint and plans."""
        return self.preprocessed.with_name(f"{self.dataset.name}.lock")

    def data(self, plans: str, configuration: str) -> PreprocessedData:
        return PreprocessedData(self.preprocessed / f"{plans}.json", configuration, self.raw)

    def preprocess_job(self, method: Method) -> str:
        return self.job("preprocess", *self.preprocessed_plans(method))

    def train_job(self, method: Method, seed: int | None, fold: str) -> str:
        return self.job("train", method_name(method, seed), f"fold_{fold}")

    def train_jobs(self, method: Method, seed: int | None) -> list[str]:
        return [self.train_job(method, seed, fold) for fold in self.study.folds]

    def validate_job(self, method: Method, seed: int | None, fold: str) -> str:
        """Return the job of a method under conditions, TRAINER@NAME, and a fold."""
        return self.job("validate", method_name(method, seed), f"fold_{fold}")

    def validation_jobs(self, method: Method, seed: int | None) -> list[str]:
        """Return the jobs that predict the folds' own cases: those that train, or validate again."""
        job = self.validate_job if method.condition else self.train_job
        return [job(method, seed, fold) for fold in self.study.folds]

    def predict_jobs(self, method: Method, seed: int | None, test: TestSet) -> list[str]:
        """Return one job for each part of the test set."""
        parts = [f"part_{k}" for k in range(test.parts)] if test.parts > 1 else [""]
        return [self.job("predict", test.name, method_name(method, seed), part) for part in parts]

    def evaluate_job(self, method: Method, seed: int | None, test: str, protocol: str) -> str:
        return self.job("evaluate", test, method_name(method, seed), protocol)


def method_name(method: Method, seed: int | None) -> str:
    return str(method) if seed is None else f"{method}.seed_{seed}"
