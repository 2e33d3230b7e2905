"""nnU-Net's folders and datasets, as a user names them."""

import os
from collections.abc import Iterable
from pathlib import Path

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def nnunet_folder(variable: str) -> Path:
    """One of nnU-Net's folders, from the environment."""
    if not os.environ.get(variable):
        raise ValueError(f"{variable} is not set; export it as the folder that nnU-Net is to use.")
    return Path(os.environ[variable])


def dataset_name(name_or_number: str, places: Iterable[Path] | None = None) -> str:
    """Dataset004_Hippocampus -> itself, 4 -> the dataset of this number in `places`, nnU-Net's folders."""
    if name_or_number.startswith("Dataset"):
        return name_or_number
    if not name_or_number.isdecimal():
        raise ValueError(f"{name_or_number!r} is no dataset; expected Dataset###_Name, or its number.")
    pattern = f"Dataset{int(name_or_number):03d}_*"
    if places is None:
        places = [Path(os.environ[variable]) for variable in FOLDERS if os.environ.get(variable)]
    places = list(places)
    names = sorted({found.name for place in places for found in place.glob(pattern)})
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ValueError(f"Expected one dataset {pattern} in {', '.join(map(str, places))}; found {found}.")
    return names[0]


def results_folder(name: str) -> Path:
    """A folder of results as it is given, or that of a dataset, by its name or number."""
    given = Path(name)
    return given if given.is_dir() else nnunet_folder("nnUNet_results") / dataset_name(name)
