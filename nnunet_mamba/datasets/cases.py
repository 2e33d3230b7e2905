"""One case: its files opened and checked, then written as nnU-Net wants them, or its faults."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.datasets.pictures import resized
from nnunet_mamba.datasets.source import Case, Fault, Source
from nnunet_mamba.images import (
    FLOATS,
    Grid,
    grid_of,
    is_picture,
    read_header,
    read_image,
    read_picture,
    require_whole,
    values_of,
)
from nnunet_mamba.writing import whole

ROUNDING = 1e-3  # labels stored as floats may be off by so much


@dataclass(frozen=True)
class Job:
    """What all cases of a conversion have in common.

    accepted  kinds of faults with which a case is written all the same
    resize    (y, x) of pictures, None: as they are
    scratch   files below it are ours: they need not be copied
    """

    source: Source
    link: bool = False
    accepted: frozenset[str] = frozenset()
    resize: tuple[int, int] | None = None
    scratch: Path | None = None

    def is_ours(self, file: Path) -> bool:
        return self.scratch is not None and file.is_relative_to(self.scratch)


@dataclass(frozen=True)
class Opened:
    """A file and the grid of one channel, with its values where these had to be read.

    values  (..., y, x), colours last
    image   for volumes, the owner of the values
    """

    file: Path
    grid: Grid
    n_channels: int = 1
    values: np.ndarray | None = None
    image: sitk.Image | None = None


def convert_case(case: Case, job: Job, folder: Path, part: str) -> list[Fault]:
    """Write a case into imagesPART and labelsPART (part: Tr or Ts) of `folder`, unless a fault forbids it."""
    readers = [partial(open_image, file, job) for file in case.images]
    readers += [partial(open_label, case.labels, job)] if case.labels else []
    opened, faults = _read_all(case, readers)
    if len(opened) == len(readers):
        images, label = opened[: len(case.images)], opened[len(case.images) :]
        faults += faults_of_images(case, images, len(job.source.channel_names))
        faults += faults_of_label(case, label[0], images[0], job.source) if label else []
    if all(fault.kind in job.accepted for fault in faults):
        image_names, label_name = file_names(case, job.source)
        places = [(image, channel) for image in images for channel in range(image.n_channels)]
        for name, (image, channel) in zip(image_names, places, strict=False):  # colours go together
            with whole(folder / f"images{part}" / name) as draft:
                _write_image(image, channel, job, draft)
        for one in label:
            with whole(folder / f"labels{part}" / label_name) as draft:
                _write_label(one, job, draft)
    return faults


def _read_all(case: Case, readers: Sequence[Callable[[], Opened]]) -> tuple[list[Opened], list[Fault]]:
    """What can be read, and a fault for each file that cannot."""
    opened, faults = [], []
    for read in readers:
        try:
            opened.append(read())
        except ValueError as error:
            faults.append(Fault("unreadable", case.name, str(error)))
    return opened, faults


def open_image(file: Path, job: Job) -> Opened:
    """Values are read only where they can be at fault, or have to be written anew."""
    if is_picture(file):
        picture = (job.source.pixels.image or read_picture)(file)
        grid = grid_of_picture(picture)
        picture = resized(picture, job.resize, labels=False) if job.resize else picture
        return Opened(file, grid, 1 if picture.ndim == 2 else picture.shape[-1], picture)
    header = _header(file)
    grid = grid_of(header)
    if file.suffix == ".gz" and header.GetPixelID() not in FLOATS and len(grid.size) < 4:
        require_whole(file)  # integers are always finite
        return Opened(file, grid)
    image = read_image(file)
    values = values_of(image, file)
    if len(grid.size) < 4:
        return Opened(file, grid, 1, values, image)
    return Opened(file, three_axes(grid), grid.size[3], values, image)


def _header(file: Path) -> sitk.ImageFileReader:
    try:
        return read_header(file)
    except ValueError:
        require_whole(file)  # says of a file that was cut short that it was, where ITK has no words for it
        raise


def open_label(files: Sequence[Path], job: Job) -> Opened:
    """The label of a case, as its files have it or are drawn together."""
    if job.source.pixels.label:
        values = job.source.pixels.label(tuple(files))
        return Opened(files[0], grid_of_picture(values), values=values)
    if is_picture(files[0]):
        values = one_channel(read_picture(files[0]), files[0])
        return Opened(files[0], grid_of_picture(values), values=values)
    image = read_image(files[0])
    return Opened(files[0], grid_of(image), 1, values_of(image, files[0]), image)


def one_channel(values: np.ndarray, file: Path) -> np.ndarray:
    """Labels that were saved as colours: any of the three, if they agree."""
    if values.ndim == 2:
        return values
    if (values[..., :3] != values[..., :1]).any():
        raise ValueError(f"{file} is a coloured picture; expected one label per pixel.")
    return values[..., 0]


def grid_of_picture(values: np.ndarray) -> Grid:
    return Grid((values.shape[1], values.shape[0]), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))


def three_axes(grid: Grid) -> Grid:
    """The grid of one channel of a 4D image whose channels are last."""
    turned = tuple(grid.direction[4 * row + column] for row in range(3) for column in range(3))
    return Grid(grid.size[:3], grid.spacing[:3], grid.origin[:3], turned)


def faults_of_images(case: Case, images: Sequence[Opened], n_channels: int) -> Iterator[Fault]:
    found = sum(image.n_channels for image in images)
    if found != n_channels:
        what = f"{images[0].file} and its kin hold {found} channels, the dataset has {n_channels}"
        yield Fault("shape", case.name, what)
    for image in images:
        if image.values is not None and not np.isfinite(image.values).all():
            n = int((~np.isfinite(image.values)).sum())
            yield Fault("values", case.name, f"{image.file} holds {n} values that are NaN or infinite")
        yield from _grids_differ(case, image, images[0])


def faults_of_label(case: Case, label: Opened, image: Opened, source: Source) -> Iterator[Fault]:
    yield from _grids_differ(case, label, image)
    known = source.pixels.recode or {value: value for value in source.label_values}
    found = np.unique(label.values)  # type: ignore[arg-type]
    with np.errstate(invalid="ignore"):
        broken = found[~(np.abs(found - np.rint(found)) < ROUNDING)]  # NaN and infinity are not below it
    if broken.size:
        yield Fault("labels", case.name, f"{label.file} holds {broken[0]:g}; labels are whole numbers")
        return
    found = np.rint(found).astype(np.int64)
    unknown = sorted(set(found.tolist()) - set(known))
    if unknown:
        what = f"{label.file} holds the label {unknown[0]}, which the dataset does not know"
        yield Fault("labels", case.name, f"{what} (it knows {sorted(known)})")
    elif not any(known[int(value)] for value in found):
        yield Fault("empty", case.name, f"{label.file} holds background only")


def _grids_differ(case: Case, one: Opened, other: Opened) -> Iterator[Fault]:
    difference = one.grid.difference(other.grid)
    if difference:
        kind = "shape" if difference.startswith("size") else "geometry"
        yield Fault(kind, case.name, f"{one.file} and {other.file.name} differ in {difference}")


def file_names(case: Case, source: Source) -> tuple[list[str], str]:
    """What nnU-Net calls the images of a case, and its label. Colours share one file."""
    ending = source.file_ending
    n = 1 if ending == ".png" else len(source.channel_names)
    return [f"{case.name}_{channel:04d}{ending}" for channel in range(n)], f"{case.name}{ending}"


def _write_image(image: Opened, channel: int, job: Job, target: Path) -> None:
    if is_picture(image.file) and (job.source.pixels.image or job.resize):
        assert image.values is not None
        _write_picture(image.values, target)
    elif image.image is not None and image.image.GetDimension() == 4:
        sitk.WriteImage(image.image[..., channel], str(target))
    else:
        _take_over(image.file, target, job)


def _write_label(label: Opened, job: Job, target: Path) -> None:
    pixels = job.source.pixels
    assert label.values is not None
    if not (pixels.recode or pixels.label or job.resize or label.values.dtype.kind == "f"):
        _take_over(label.file, target, job)
        return
    stored = np.rint(label.values)
    values = stored.astype(np.uint8)
    for old, new in pixels.recode.items():
        values[stored == old] = new
    if label.image is None:
        _write_picture(resized(values, job.resize, labels=True) if job.resize else values, target)
        return
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(label.image)
    sitk.WriteImage(image, str(target))


def _take_over(file: Path, target: Path, job: Job) -> None:
    """Link or copy; another format is written anew."""
    if not file.name.endswith(job.source.file_ending):
        if is_picture(file):
            _write_picture(read_picture(file), target)
        else:
            sitk.WriteImage(read_image(file), str(target))
        return
    try:
        if job.is_ours(file):
            target.hardlink_to(file)
            return
        if job.link:
            target.symlink_to(file.resolve())
            return
    except OSError:  # no links on this file system, or no right to make them
        pass
    shutil.copyfile(file, target)


def _write_picture(values: np.ndarray, target: Path) -> None:
    from skimage.io import imsave

    imsave(target, values, check_contrast=False)
