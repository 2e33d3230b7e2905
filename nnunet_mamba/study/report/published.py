"""What papers report on a dataset, from published.json, and whether one may compare it with ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_mamba.nnunet.catalogue import PREFIX
from nnunet_mamba.study.statistics.methods import EPOCHS, Method

FILE = Path(__file__).parent / "published.json"
DATASET = re.compile(r"Dataset\d{3}_(.+)")
RESENC = re.compile(r"nnUNetResEncUNet(M|L|XL)Plans.*")


@dataclass(frozen=True)
class PublishedTable:
    """A column of a paper: one metric of several networks, in the paper's unit.

    dataset   our name
    scale     100 where the paper has percent
    protocol  whose rules, by our name, or words where none of ours is meant
    split     crossval, test or validation: what the n_cases cases were
    cases, training  in words
    by_label  network -> label -> value, where the paper has them
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


@dataclass(frozen=True)
class Ours:
    """How the numbers beside it were made."""

    dataset: str  # our name for it
    protocol: str
    folds: frozenset[str]
    n_cases: int

    @property
    def split(self) -> str:
        numbered = {fold for fold in self.folds if fold.isdigit()}
        if self.folds == {"test"}:
            return "test"
        return "crossval" if len(numbered) > 1 else "validation"


def known_dataset(name: str) -> str | None:
    """Dataset027_ACDC -> acdc; None for datasets that no table here is about."""
    from nnunet_mamba.study.datasets.specs import DATASETS

    match = DATASET.fullmatch(name)
    wanted = _plain(match[1] if match else name)
    for key, spec in DATASETS.items():
        if wanted in {_plain(text) for text in (key, spec.folder or "", *spec.aliases)}:
            return key
    return None


def published_tables(dataset: str, file: Path = FILE) -> list[PublishedTable]:
    """Those on the dataset of our name, then those on its near relations."""
    content = json.loads(file.read_text(encoding="utf-8"))
    names = content["beside"].get(dataset, [dataset])
    tables = [PublishedTable(**table) for table in content["tables"]]
    return [table for name in names for table in tables if table.dataset == name]


def network_of(method: Method) -> str:
    """The network's name as plain letters: nnUNetTrainerMMUNet_100epochs -> mmunet."""
    name = EPOCHS.sub("", method.trainer.removeprefix(PREFIX))
    name = re.sub(r"Paper.*$", "", name)
    resenc = RESENC.fullmatch(method.plans)
    if not name and resenc:
        return _plain(f"nnunet_resenc_{resenc[1]}")
    return _plain(name) or "nnunet"


def value_of(table: PublishedTable, method: Method) -> float | None:
    """The paper's value of the method's network, as a share or in its unit."""
    wanted = network_of(method)
    found = [value for name, value in table.values.items() if _plain(name) == wanted]
    return found[0] / table.scale if found else None


def label_value(table: PublishedTable, method: Method, label: str) -> float | None:
    wanted = network_of(method)
    for network, values in table.by_label.items():
        if _plain(network) == wanted:
            return next(
                (v / table.scale for name, v in values.items() if _plain(name) == _plain(label)), None
            )
    return None


def differences(table: PublishedTable, ours: Ours) -> list[str]:
    """Why the numbers cannot be compared, in words; none: nothing that is known here forbids it."""
    found = []
    if table.dataset != ours.dataset:
        found.append(f"another dataset ({table.dataset})")
    if table.protocol != ours.protocol:
        found.append(f"protocol {table.protocol}, here {ours.protocol or 'not stated'}")
    if table.split != ours.split:
        words = {"crossval": "cross-validation", "test": "test cases", "validation": "a validation set"}
        found.append(f"{words[table.split]}, here {words[ours.split]}")
    if table.n_cases != ours.n_cases:
        found.append(f"{table.n_cases} cases, here {ours.n_cases}")
    return found


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
