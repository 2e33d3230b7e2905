"""Synthetic segmentation task: small 3D scans of an imaginary abdomen, in nnU-Net's raw layout.

Three labels lie in a textured body: a large superquadric organ, an ellipsoidal gland beside it, and a bent
vessel that leaves the gland. Grey values alone do not tell them apart: the organs are as bright as many
small nodules and as the body's wall, the vessel as dark as other nodules, and texture, noise and a bias field
blur what is left. Size, shape and neighbourhood decide.

Arrays have axes (z, y, x); positions are in mm from the centre of the grid.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnunet_mamba.io.atomic import atomic_directory
from nnunet_mamba.nnunet.splits import Fold
from nnunet_mamba.study.datasets.splits import Split

SPACING_MM = (2.5, 1.5, 1.5)  # z, y, x
LABELS = {"background": 0, "organ": 1, "gland": 2, "vessel": 3}
BRIGHT, GREY, DARK = 1.0, 0.72, 0.38  # mean signal of organ and gland, of tissue, of the vessel
NOISE = 0.09  # standard deviation of the noise, in units of the mean signal of an organ
TEXTURE = 0.08  # standard deviation of the smooth variation of the tissue


@dataclass(frozen=True)
class Phantom:
    """Scan: `image` (float32) and `labels` (uint8) on the same grid (z, y, x)."""

    image: np.ndarray
    labels: np.ndarray


def write_phantom_dataset(
    folder: Path, *, n_train: int, n_test: int, seed: int, n_validation: int = 0
) -> Path:
    """Write `n_train` + `n_test` labelled phantoms as the nnU-Net raw dataset `folder` (Dataset###_Name).

    With `n_validation`, it has a split of one fold, which validates on that many of the training cases.
    The test cases are in imagesTs and their labels in labelsTs, where nnU-Net does not look. Case k depends
    on (seed, k) only, so that a larger data set of the same seed begins with the smaller one.
    """
    if n_train < 1 or n_test < 0:
        raise ValueError(f"A phantom dataset needs n_train >= 1 and n_test >= 0; got {n_train} and {n_test}.")
    with atomic_directory(folder) as draft:
        for k in range(n_train + n_test):
            part = "Tr" if k < n_train else "Ts"
            drawn = draw_phantom(np.random.default_rng((seed, k)))
            write_case(draft, part, f"phantom_{k:03d}", drawn, SPACING_MM)
        description = {
            "name": "Phantom",
            "description": "Made-up abdominal scans of nnunet_mamba: an organ, a gland and a vessel.",
            "channel_names": {"0": "MRI"},
            "labels": LABELS,
            "numTraining": n_train,
            "file_ending": ".nii.gz",
        }
        (draft / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
        if n_validation:
            names = tuple(f"phantom_{k:03d}" for k in range(n_train))
            split = Split((Fold(names[:-n_validation], names[-n_validation:]),))
            (draft / "splits_final.json").write_text(json.dumps(split.to_json(), indent=1), encoding="utf-8")
    return Path(folder)


def write_case(
    folder: Path, part: str, name: str, phantom: Phantom, spacing_mm: tuple[float, float, float]
) -> None:
    """Write imagesPART/NAME_0000.nii.gz and labelsPART/NAME.nii.gz; part: Tr or Ts, spacing: z, y, x."""
    for kind, array, suffix in (("images", phantom.image, "_0000"), ("labels", phantom.labels, "")):
        (folder / f"{kind}{part}").mkdir(exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm[::-1])
        sitk.WriteImage(image, str(folder / f"{kind}{part}" / f"{name}{suffix}.nii.gz"))


def draw_phantom(rng: np.random.Generator) -> Phantom:
    """Draw a random scan of about 19 x 32 x 32 voxels: small enough for one patch of a network for CPUs."""
    grid = (int(rng.integers(18, 21)), int(rng.integers(30, 34)), int(rng.integers(30, 34)))
    mm = get_positions_mm(grid)
    body = draw_superquadric(mm, centre=(0, 0, 0), radii=get_extent_mm(grid) * 0.47, power=3.0)
    wall = body & ~draw_superquadric(mm, centre=(0, 0, 0), radii=get_extent_mm(grid) * 0.47 - 2.5, power=3.0)
    labels = draw_labels(mm, rng)
    labels[~body | wall] = 0
    signal = np.where(body, GREY, 0.05) + np.where(body, draw_smooth_noise(grid, 2.0, rng) * TEXTURE, 0)
    signal[wall] = BRIGHT
    for level, n_nodules in ((BRIGHT, 16), (DARK, 8)):
        signal[draw_nodules(mm, n_nodules, rng) & body & (labels == 0)] = level
    for label, level in ((1, BRIGHT), (2, BRIGHT), (3, DARK)):
        signal[labels == label] = level * rng.normal(1, 0.03)
    return Phantom(add_artefacts(signal, rng), labels)


def draw_labels(mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the three organs with random size, pose and squareness: (3, z, y, x) -> (z, y, x) uint8."""
    turned = np.tensordot(draw_rotation(rng, 0.3), mm, axes=1)
    side = rng.choice((-1, 1))  # nnU-Net mirrors patches, so that no side can carry meaning
    organ_at = np.array([0, -3, 8 * side]) + rng.normal(0, 1.5, 3)
    gland_at = organ_at + np.array([rng.uniform(-5, 5), rng.uniform(11, 14), -rng.uniform(15, 18) * side])
    organ = draw_superquadric(
        turned, organ_at, rng.uniform((10, 9, 8), (14, 12, 11)), power=rng.uniform(2, 4)
    )
    gland = draw_superquadric(turned, gland_at, rng.uniform((8, 7, 7), (11, 8.5, 8.5)), power=2.0)
    vessel = draw_tube(
        turned, gland_at, organ_at + np.array([0, -6, -16 * side]), radius=rng.uniform(4.6, 5.4), rng=rng
    )
    labels = np.zeros(mm.shape[1:], np.uint8)
    for label, mask in ((3, vessel), (1, organ), (2, gland)):
        labels[mask] = label
    return labels


def draw_nodules(mm: np.ndarray, n_nodules: int, rng: np.random.Generator) -> np.ndarray:
    """Return a mask of balls of 2 to 4 mm radius anywhere: as bright or dark as a label, but none of them."""
    reach = mm.reshape(3, -1).max(1)
    mask = np.zeros(mm.shape[1:], bool)
    for _ in range(n_nodules):
        mask |= draw_superquadric(mm, rng.uniform(-reach, reach), np.full(3, rng.uniform(2, 4)), power=2.0)
    return mask


def draw_tube(
    mm: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a mask of a bent tube of `radius` mm from start to end: a quadratic Bezier curve, thickened."""
    bend = (start + end) / 2 + rng.normal(0, 4, 3)
    t = np.linspace(0, 1, 40)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros(mm.shape[1:], bool)
    for point in points:
        mask |= draw_superquadric(mm, point, np.full(3, radius), power=2.0)
    return mask


def draw_superquadric(
    mm: np.ndarray, centre: np.ndarray | tuple[float, ...], radii: np.ndarray, power: float
) -> np.ndarray:
    """Return the mask {x : sum |(x - centre) / radii|^power <= 1}.

    An ellipsoid for power 2, nearer to a box above it.
    """
    column = (3, 1, 1, 1)
    scaled = (mm - np.reshape(centre, column)) / np.reshape(radii, column)
    return (np.abs(scaled) ** power).sum(0) <= 1


def add_artefacts(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add partial volume, a smooth bias field of about 15 % and Rician noise, and scale by chance."""
    bias = np.exp(0.15 * draw_smooth_noise(signal.shape, 14.0, rng))
    seen = gaussian_filter(signal, 0.5) * bias
    noise = rng.normal(0, NOISE, (2, *signal.shape))
    return (np.hypot(seen + noise[0], noise[1]) * rng.uniform(300, 500)).astype(np.float32)


def draw_smooth_noise(grid: tuple[int, ...], sigma_vox: float, rng: np.random.Generator) -> np.ndarray:
    """Return correlated noise of zero mean and unit standard deviation."""
    noise = gaussian_filter(rng.normal(size=grid), sigma_vox, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def draw_rotation(rng: np.random.Generator, spread: float) -> np.ndarray:
    """Draw a rotation (3, 3) by about `spread` radians about a random axis (Rodrigues' formula)."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = rng.normal(0, spread)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def get_positions_mm(grid: tuple[int, int, int]) -> np.ndarray:
    """Return the voxels' centres in mm from the grid's centre: (3, z, y, x)."""
    index = np.indices(grid) - (np.reshape(grid, (3, 1, 1, 1)) - 1) / 2
    return index * np.reshape(SPACING_MM, (3, 1, 1, 1))


def get_extent_mm(grid: tuple[int, int, int]) -> np.ndarray:
    """Return the size of the grid in mm."""
    return np.array(grid) * np.array(SPACING_MM)
