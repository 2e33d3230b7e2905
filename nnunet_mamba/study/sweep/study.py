"""A study as data: what is trained on what, and how it is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STOCK_PLANS = "nnUNetPlans"
CASCADE, LOWRES = "3d_cascade_fullres", "3d_lowres"


@dataclass(frozen=True)
class Conversion:
    """Arguments of `nnunet-mamba convert`."""

    name: str
    sources: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestSet:
    """Images that no training sees; `labels` None: they are predicted, not scored."""

    name: str
    images: Path
    labels: Path | None
    parts: int  # jobs that share the prediction


@dataclass(frozen=True)
class Dataset:
    """`group` is the part of a case's name that is the patient's, as `nnunet-mamba compare` has it."""

    name: str  # Dataset###_Name
    convert: Conversion | None
    split: str | None
    group: str | None
    tests: tuple[TestSet, ...]


@dataclass(frozen=True)
class Plans:
    """How plans come to be: by nnU-Net's planner of this name; a template over other plans; for a network and
    a card (`vram_gb`); or, `own`, by the user, who has put them into nnUNet_preprocessed."""

    name: str
    planner: str | None = None
    template: str | None = None
    source: str = STOCK_PLANS
    network: str | None = None
    vram_gb: float | None = None
    own: bool = False


@dataclass(frozen=True)
class Method:
    """What is compared."""

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.trainer}__{self.plans}__{self.configuration}"


@dataclass(frozen=True)
class Study:
    """Paths are absolute. `seeds` holds None for trainings without a seed."""

    name: str
    out: Path
    device: str
    folders: dict[str, Path]  # nnU-Net's three, by variable
    trainers_from: tuple[Path, ...]
    variables: Mapping[str, str]  # of trainings and predictions, and part of what makes them
    datasets: tuple[Dataset, ...]
    plans: dict[str, Plans]
    methods: tuple[Method, ...]
    folds: tuple[str, ...]
    seeds: tuple[int | None, ...]
    protocols: tuple[str, ...]
    metrics: tuple[str, ...]
    tolerance_mm: tuple[str, ...]
    baseline: str | None
    threads: int
    gpus: int  # per training
    memory_gb: int  # per training
    hours: int  # at most, per training
    npz: bool
    mirroring: bool  # in prediction of test sets
    batched: bool  # predict with `nnunet-mamba predict`

    def results(self, seed: int | None) -> Path:
        """nnU-Net's folder of results of one seed: trainings that differ in nothing else are kept apart."""
        base = self.folders["nnUNet_results"]
        return base if seed is None else base / f"seed_{seed}"
