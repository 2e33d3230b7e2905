"""Paths of nnU-Net: its folders, datasets, plans and results, as a user names them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nnunet_mamba.io.messages import find_closest_names
from nnunet_mamba.nnunet.catalogue import CONDITION

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PLANS = "nnUNetPlans.json"  # nnU-Net's default
PLAN = "nnUNetv2_plan_and_preprocess"
WHERE_PLANS_ARE = "in nnUNet_preprocessed, such as Dataset004_Hippocampus/nnUNetPlans.json"


def get_nnunet_folder(variable: str) -> Path:
    """Return one of nnU-Net's folders, from the environment. ValueError if it is not set."""
    if not os.environ.get(variable):
        raise ValueError(f"{variable} is not set; export it as the folder that nnU-Net is to use.")
    return Path(os.environ[variable])


def resolve_dataset_name(given: str, places: Iterable[Path] | None = None) -> str:
    """Return the name Dataset###_Name of a dataset that is given by its number, its name, or a folder of that
    name; a number is looked up in `places`, by default nnU-Net's folders. ValueError for anything else."""
    places = list_nnunet_folders() if places is None else list(places)
    name = Path(given).name
    if name.startswith("Dataset") and name == given.rstrip("/\\"):
        return name
    if Path(given).is_dir() and name.startswith("Dataset"):
        if Path(given).resolve().parent in [place.resolve() for place in places]:
            return name
        raise ValueError(f"{given} does not lie in {', '.join(map(str, places)) or 'a folder of nnU-Net'}.")
    if not given.isdecimal():
        names = {found.name for place in places for found in place.glob("Dataset[0-9][0-9][0-9]_*")}
        words = {found.partition("_")[2]: found for found in sorted(names)}
        meant = [words[word] for word in find_closest_names(given, words)]
        hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
        raise ValueError(
            f"{given!r} is not a dataset; expected Dataset###_Name, its number, or its folder.{hint}"
        )
    pattern = f"Dataset{int(given):03d}_*"
    names = {found.name for place in places for found in place.glob(pattern)}
    if len(names) != 1:
        there = sorted({found.name for place in places for found in place.glob("Dataset*")})
        found = f"found {', '.join(sorted(names))}" if names else f"there are {', '.join(there) or 'none'}"
        raise ValueError(f"Expected one dataset {pattern} in {', '.join(map(str, places))}; {found}.")
    return names.pop()


def list_nnunet_folders() -> list[Path]:
    """Return those of nnU-Net's folders that the environment names."""
    return [Path(os.environ[variable]) for variable in FOLDERS if os.environ.get(variable)]


def find_dataset(variable: str, given: str, fix: str) -> Path:
    """Return the folder of a dataset within the nnU-Net folder of this variable.

    ValueError, which ends with `fix` or a dataset that may be meant, if it does not exist.
    """
    place = get_nnunet_folder(variable)
    name = resolve_dataset_name(given)
    if not (place / name).is_dir():
        meant = find_closest_names(name, [found.name for found in place.glob("Dataset*") if found.is_dir()])
        hint = f"Did you mean {' or '.join(meant)}?" if meant else fix
        raise ValueError(f"{place / name} does not exist. {hint}")
    return place / name


class Method(NamedTuple):
    """Trained method, as nnU-Net names the folder of its results: TRAINER__PLANS__CONFIGURATION.

    A network that was validated again under another condition is TRAINER@CONDITION.
    """

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return "__".join(self)

    @property
    def condition(self) -> str:
        """Return what else the trained network was validated under; "" for nothing else."""
        return self.trainer.partition(CONDITION)[2]

    @property
    def trained(self) -> "Method":
        """Return the method as it was trained, without the condition."""
        return self.under("")

    def under(self, condition: str) -> "Method":
        """Return the same trained network under this condition."""
        trainer = self.trainer.partition(CONDITION)[0]
        return self._replace(trainer=f"{trainer}{CONDITION}{condition}" if condition else trainer)


def parse_method(name: str) -> Method | None:
    """Return the parts of TRAINER__PLANS__CONFIGURATION, None for other names."""
    parts = name.split("__")
    return Method(*parts) if len(parts) == 3 else None


def find_folds(results: Path) -> Iterator[tuple[Path, Method, str]]:
    """Yield the folders of folds in a dataset's folder of results, with the method and the fold: a
    number, or "all"."""
    for folder in sorted(results.glob("*__*__*/fold_*")):
        if method := parse_method(folder.parent.name):
            yield folder, method, folder.name.removeprefix("fold_")


def resolve_results_folder(name: str) -> Path:
    """Return a folder of results as it is given, or that of a dataset, by its name or number."""
    given = Path(name)
    if given.is_dir():
        return given
    return find_dataset("nnUNet_results", name, "Nothing was trained on this dataset yet.")


def resolve_plans_file(given: str) -> Path:
    """Return a plans file as it is given (.json), or nnUNetPlans.json of a preprocessed dataset.

    ValueError if it does not exist.
    """
    path = Path(given)
    if path.is_file():
        return path
    if path.suffix == ".json":
        raise ValueError(f"{path} does not exist; expected the plans of a dataset, {WHERE_PLANS_ARE}.")
    if (path / PLANS).is_file():
        return path / PLANS
    folder = find_dataset("nnUNet_preprocessed", given, f"Plan it: {PLAN} -d ID.")
    path = folder / PLANS
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*lans*.json"))) or "no plans"
        raise ValueError(f"{path} does not exist; {folder.name} has {there}. Plan it: {PLAN}.")
    return path
