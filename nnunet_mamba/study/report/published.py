"""Numbers of papers from published.json, and the differences that forbid comparing them with a study."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.catalogue import PREFIX
from nnunet_mamba.nnunet.paths import Method
from nnunet_mamba.study.statistics.methods import EPOCHS

FILE = Path(__file__).parent / "published.json"
DATASET = re.compile(r"Dataset\d{3}_(.+)")
RESENC = re.compile(r"nnUNetResEncUNet(M|L|XL)Plans.*")


@dataclass(frozen=True)
class PublishedTable:
    """Column of a paper's table: one metric of several networks, in the paper's unit.

    dataset   name in study.datasets
    scale     100 if the paper has percent
    protocol  name in study.evaluation, or words if the paper follows none of them
    split     crossval, test or validation: what the n_cases cases were
    cases, training  in words
    by_label  values by network and label, if the paper has them
    n_patients  where some have several cases
    deviations  printed with the values, taken for SDs over cases; deviations_from: where they were read
    """

    source: str
    dataset: str
    metric: str
    scale: float
    protocol: str
    split: str
    n_cases: int
    cases: str
    training: str
    values: Mapping[str, float]
    by_label: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_patients: int | None = None
    deviations: Mapping[str, float] = field(default_factory=dict)
    deviations_from: str = ""


@dataclass(frozen=True)
class StudySetup:
    """Dataset, protocol and cases of the study that stands beside the papers."""

    dataset: str  # name in study.datasets
    protocol: str
    folds: frozenset[str]
    n_cases: int

    @property
    def split(self) -> str:
        numbered = {fold for fold in self.folds if fold.isdigit()}
        if self.folds == {"test"}:
            return "test"
        return "crossval" if len(numbered) > 1 else "validation"


def match_dataset(name: str) -> str | None:
    """Return the dataset's name in study.datasets, acdc for Dataset027_ACDC; None for an unknown dataset."""
    from nnunet_mamba.study.datasets.specs import DATASETS

    match = DATASET.fullmatch(name)
    wanted = _normalise(match[1] if match else name)
    for key, spec in DATASETS.items():
        if wanted in {_normalise(text) for text in (key, spec.folder or "", *spec.aliases)}:
            return key
    return None


def read_all_published_tables() -> list[PublishedTable]:
    """Return the tables of all datasets."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return [PublishedTable(**table) for table in content["tables"]]


def read_published_tables(dataset: str) -> list[PublishedTable]:
    """Return the tables on the dataset, then those on datasets shown beside it."""
    names = json.loads(FILE.read_text(encoding="utf-8"))["beside"].get(dataset, [dataset])
    tables = read_all_published_tables()
    return [table for name in names for table in tables if table.dataset == name]


def get_network_key(method: Method) -> str:
    """Return the network's name in plain letters, mmunet for nnUNetTrainerMMUNet_100epochs."""
    name = EPOCHS.sub("", method.trainer.removeprefix(PREFIX))
    name = re.sub(r"Paper.*$", "", name)
    resenc = RESENC.fullmatch(method.plans)
    if not name and resenc:
        return _normalise(f"nnunet_resenc_{resenc[1]}")
    return _normalise(name) or "nnunet"


def find_published_value(table: PublishedTable, method: Method) -> float | None:
    """Return the paper's value for the method's network, as a share or in its unit; None if it has none."""
    wanted = get_network_key(method)
    found = [value for name, value in table.values.items() if _normalise(name) == wanted]
    return found[0] / table.scale if found else None


def find_published_label_value(table: PublishedTable, method: Method, label: str) -> float | None:
    """Return the paper's value for one label of the method's network; None if it has none."""
    wanted = get_network_key(method)
    for network, values in table.by_label.items():
        if _normalise(network) == wanted:
            return next(
                (v / table.scale for name, v in values.items() if _normalise(name) == _normalise(label)), None
            )
    return None


def find_differences(table: PublishedTable, study: StudySetup) -> list[str]:
    """Return the reasons, in words, why the paper's numbers cannot be compared with the study's."""
    found = []
    if table.dataset != study.dataset:
        found.append(f"another dataset ({table.dataset})")
    if table.protocol != study.protocol:
        found.append(f"protocol {table.protocol}, here {study.protocol or 'not stated'}")
    if table.split != study.split:
        words = {"crossval": "cross-validation", "test": "test cases", "validation": "a validation set"}
        found.append(f"{words[table.split]}, here {words[study.split]}")
    if table.n_cases != study.n_cases:
        found.append(f"{table.n_cases} cases, here {study.n_cases}")
    return found


def _normalise(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
