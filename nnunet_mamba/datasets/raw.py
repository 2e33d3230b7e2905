"""Writing an nnU-Net raw dataset in which some labelled cases are kept unseen.

nnU-Net trains and validates on imagesTr/labelsTr by the one split in splits_final.json (its planner takes the
file over); the unseen cases lie in imagesTs/labelsTs and meet the network in prediction only.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.datasets.folders import complete_or_absent
from nnunet_mamba.datasets.source import Case, Source
from nnunet_mamba.images import read_image

FEWEST_TRAINING = 3  # cases that must remain after the unseen and the validation cases are taken


@dataclass(frozen=True)
class Split:
    """Names of cases: to train on, to validate on during training, never to be seen in training."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    unseen: tuple[str, ...]


def draw_split(names: Sequence[str], *, n_unseen: int, n_validation: int, seed: int) -> Split:
    """A random split that depends on the sorted names and the seed only."""
    n_cases = len(names)
    most = n_cases - n_validation - FEWEST_TRAINING
    if not 1 <= n_unseen <= most:
        raise ValueError(
            f"{n_unseen} unseen cases were asked for; of {n_cases} labelled cases, {n_validation} are needed "
            f"for validation and {FEWEST_TRAINING} for training, so choose between 1 and {most}."
        )
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    unseen, rest = shuffled[:n_unseen], shuffled[n_unseen:]
    return Split(
        tuple(sorted(rest[n_validation:])), tuple(sorted(rest[:n_validation])), tuple(sorted(unseen))
    )


def write_raw_dataset(
    source: Source, folder: Path, split: Split, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Check every file of `source` and lay it out as the nnU-Net raw dataset `folder`.

    Files that nnU-Net can read as they are become links (copies where links cannot be made); 4D images are
    written out channel by channel. `progress` is called with (cases done, cases in all).
    """
    unseen = frozenset(split.unseen)
    with complete_or_absent(folder) as draft:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (draft / part).mkdir()
        for done, case in enumerate(source.cases, start=1):
            check_label_values(case.label, source)
            part = "Ts" if case.name in unseen else "Tr"
            write_images(case, len(source.channel_names), draft / f"images{part}", source.file_ending)
            link_or_copy(case.label, draft / f"labels{part}" / f"{case.name}{source.file_ending}")
            if progress:
                progress(done, len(source.cases))
        write_description(source, draft, n_training=len(source.cases) - len(unseen))
        write_splits(draft, split)
    return Path(folder)


def write_images(case: Case, n_channels: int, folder: Path, ending: str) -> None:
    """One file per channel, CASE_0000 onwards."""
    arrays = [read_image(file) for file in case.images]
    targets = [folder / f"{case.name}_{channel:04d}{ending}" for channel in range(n_channels)]
    if len(case.images) == n_channels and arrays[0].GetDimension() < 4:
        for file, target in zip(case.images, targets, strict=True):
            link_or_copy(file, target)
        return
    stacked = arrays[0]
    if stacked.GetDimension() != 4 or stacked.GetSize()[3] != n_channels:
        raise ValueError(
            f"{case.images[0]} has the size {stacked.GetSize()}, but dataset.json names {n_channels} "
            f"channels; expected a 4D image with the channels last, or one channel name."
        )
    for channel, target in enumerate(targets):
        sitk.WriteImage(stacked[..., channel], str(target))


def check_label_values(file: Path, source: Source) -> None:
    """Refuse a label file with a value that dataset.json does not know."""
    found = np.unique(sitk.GetArrayFromImage(read_image(file)))
    unknown = [value for value in found.tolist() if value not in source.label_values]
    if unknown:
        raise ValueError(
            f"{file} holds the label {unknown[0]:g}, which dataset.json does not name "
            f"(it names {sorted(source.label_values)}). Add it there, or correct the file."
        )


def link_or_copy(file: Path, target: Path) -> None:
    try:
        target.symlink_to(file.resolve())
    except OSError:  # no links on this file system, or no right to make them
        shutil.copyfile(file, target)


def write_description(source: Source, folder: Path, n_training: int) -> None:
    """nnU-Net's dataset.json."""
    description = {
        "channel_names": source.channel_names,
        "labels": source.labels,
        "numTraining": n_training,
        "file_ending": source.file_ending,
        **source.extra,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))


def write_splits(folder: Path, split: Split) -> None:
    """One fold: nnU-Net validates after training on every validation case with 8 flips, so these are few."""
    folds = [{"train": list(split.training), "val": list(split.validation)}]
    (folder / "splits_final.json").write_text(json.dumps(folds, indent=1))
