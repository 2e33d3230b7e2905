"""Positive control for global mixers: images whose labels depend on cues far away, and on nothing nearer.

Lanes run along one axis of an image. Each has a cue at one end, a bright or a dark ball, and at the other end
a target, a grey ball, joined to its cue by a faint line. The label of a target is the brightness of its cue.
All cues lie on one side and all targets on the other, no voxel of a target within `distance` voxels of one of
a cue, so that a network that sees only so far cannot know a label:

* the image with all labels exchanged is as likely, and equal to this one up to `distance` voxels around every
  target;
* half of the cues are bright, so that the image's mean tells nothing;
* there are many lanes, and all but those at the border look the same from where their targets are, so that
  instance norms, by whose means and variances convolutions learn of the whole image, cannot tell them apart.

Who guesses can expect a Dice of 0.5 at best. Images have axes (z, y, x).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nnunet_mamba.io.atomic import atomic_directory
from nnunet_mamba.study.datasets.phantom import Phantom, write_case

NUMBER, FOLDER = 901, "LongRange"
SHAPE = (1, 128, 128)  # z, y, x: slices, with 16 lanes
N_CASES = 120
LABELS = {"background": 0, "bright": 1, "dark": 2}
PITCH = 8  # voxels from lane to lane
RADIUS = 2  # of cues and targets, in voxels
JITTER = 3  # voxels by which cues and targets are moved outwards, at most
MARGIN = RADIUS + JITTER + 1  # voxels from the foremost cue's or target's centre to the end of the image
CUE, TARGET, LINE = 1.0, 0.5, 0.25  # signal over background; a dark cue has -CUE
NOISE = 0.15  # standard deviation
AXES = "zyx"
Shape = tuple[int, int, int]


def write_longrange_dataset(
    folder: Path,
    *,
    distance: int,
    along: str = "x",
    shape: Shape = SHAPE,
    n_cases: int = N_CASES,
    seed: int = 0,
) -> Path:
    """Write labelled images as the nnU-Net raw dataset `folder` (Dataset###_Name).

    Case k depends on (seed, k) only, so that a larger data set of the same seed begins with the smaller one.
    ValueError as of `draw_longrange`, without cases, and for a negative seed.
    """
    if n_cases < 1 or seed < 0:
        raise ValueError(
            f"Got {n_cases} cases of the seed {seed}; expected at least one, of a seed from 0 on."
        )
    with atomic_directory(folder) as draft:
        for k in range(n_cases):
            drawn = draw_longrange(np.random.default_rng((seed, k)), shape, distance, along)
            write_case(draft, "Tr", f"longrange_{k:03d}", drawn, (1.0, 1.0, 1.0))
        description = {
            "name": "LongRange",
            "description": f"Made-up images of nnunet_mamba: labels depend on cues {distance} voxels away.",
            "channel_names": {"0": "MRI"},
            "labels": LABELS,
            "numTraining": n_cases,
            "file_ending": ".nii.gz",
        }
        (draft / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return Path(folder)


def smallest_length(distance: int) -> int:
    """Return the smallest length of the lanes' axis, in voxels."""
    return distance + 2 * (MARGIN + RADIUS) + 2


def draw_longrange(
    rng: np.random.Generator, shape: Shape, distance: int, along: str = "x", *, exchanged: bool = False
) -> Phantom:
    """Draw an image whose labels depend on cues more than `distance` voxels away, along the axis z, y or x.

    With `exchanged`, the same image with each bright cue dark and each dark cue bright. ValueError for a
    negative distance, and for grids that are too short for it, or have an odd number of lanes.
    """
    if distance < 0 or min(shape) < 1:
        raise ValueError(
            f"Cues {distance} voxels away in {' x '.join(map(str, shape))} voxels; expected a distance of at "
            "least 0, and at least one voxel along each axis."
        )
    axis = AXES.index(along)
    length, across = shape[axis], tuple(np.delete(shape, axis))
    lanes = _lane_centres(across)
    if length < smallest_length(distance):
        raise ValueError(
            f"Cues {distance} voxels away need an axis of {smallest_length(distance)} voxels; {along} has "
            f"{length} of them."
        )
    start = int(rng.integers(MARGIN, length - smallest_length(distance) + MARGIN + 1))
    cues = start - rng.integers(0, JITTER + 1, len(lanes))
    targets = start + distance + 2 * RADIUS + 1 + rng.integers(0, JITTER + 1, len(lanes))
    is_bright = (rng.permutation(len(lanes)) % 2 == 0) != exchanged
    image, labels = np.zeros((*across, length)), np.zeros((*across, length), np.uint8)
    for lane, cue, target, bright in zip(lanes, cues, targets, is_bright, strict=True):
        image[lane][cue:target] = LINE
        image[_ball(image.shape, (*lane, cue))] = CUE if bright else -CUE
        ball = _ball(image.shape, (*lane, target))
        image[ball], labels[ball] = TARGET, LABELS["bright" if bright else "dark"]
    image += rng.normal(0, NOISE, image.shape)
    if rng.random() < 0.5:
        image, labels = image[..., ::-1], labels[..., ::-1]
    image, labels = (np.ascontiguousarray(np.moveaxis(array, -1, axis)) for array in (image, labels))
    return Phantom(image.astype(np.float32), labels)


def _lane_centres(across: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return where lanes cross a plane of this size, `PITCH` voxels apart. ValueError if they are odd in
    number."""
    counts = [max(1, size // PITCH) for size in across]
    lanes = [
        tuple((2 * i + 1) * size // (2 * n) for i, size, n in zip(index, across, counts, strict=True))
        for index in np.ndindex(*counts)
    ]
    if len(lanes) % 2:
        raise ValueError(
            f"{' x '.join(map(str, across))} voxels across have {len(lanes)} lanes; expected an even number, "
            f"as 1 x {2 * PITCH} have."
        )
    return lanes


def _ball(shape: tuple[int, ...], centre: tuple[int, ...]) -> np.ndarray:
    """Return the mask of the voxels within `RADIUS` of the centre."""
    offsets = np.indices(shape) - np.reshape(centre, (-1, *(1 for _ in shape)))
    return (offsets**2).sum(0) <= RADIUS**2
