"""One case: its files opened and checked, then written as nnU-Net wants them, or its faults."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.images import (
    REORIENTING,
    TIFF,
    Grid,
    header_contradiction,
    is_nifti,
    is_picture,
    is_plain,
    n_channels_of_picture,
    one_channel,
    read_channels,
    read_header,
    read_picture,
    read_values,
    reader_of,
    require_whole,
    write_label_map,
    write_like,
)
from nnunet_mamba.study.datasets.pictures import resized
from nnunet_mamba.study.datasets.source import Case, Fault, Source

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

    @property
    def reader(self) -> str:
        """nnU-Net's reader for what is written."""
        return reader_of({**self.source.extra, "file_ending": self.source.file_ending})

    def is_ours(self, file: Path) -> bool:
        return self.scratch is not None and file.is_relative_to(self.scratch)


@dataclass(frozen=True)
class Opened:
    """A file and the grid of one channel, with its values where these had to be read.

    values         (..., y, x), colours last
    n_components   values per voxel of a channel
    contradiction  in the header, in words
    as_it_is       the file may be taken over, for nnU-Net reads from it what we did
    """

    file: Path
    grid: Grid
    n_channels: int = 1
    values: np.ndarray | None = None
    n_components: int = 1
    contradiction: str | None = None
    as_it_is: bool = True


def convert_case(case: Case, job: Job, folder: Path, part: str) -> list[Fault]:
    """Write a case into imagesPART and labelsPART (part: Tr or Ts) of `folder`, unless a fault forbids it."""
    readers = [partial(open_image, file, job, len(case.images)) for file in case.images]
    readers += [partial(open_label, case.labels, job)] if case.labels else []
    opened, faults = _read_all(case, readers)
    if len(opened) == len(readers):
        images, label = opened[: len(case.images)], opened[len(case.images) :]
        faults += faults_of_images(case, images, job)
        faults += faults_of_label(case, label[0], images[0], job) if label else []
    if all(fault.kind in job.accepted for fault in faults):
        image_names, label_name = file_names(case, job.source)
        places = [(image, channel) for image in images for channel in range(image.n_channels)]
        for name, (image, channel) in zip(image_names, places, strict=False):  # colours go together
            with atomic_write(folder / f"images{part}" / name) as draft:
                _write_image(image, channel, images[0], job, draft)
        for one in label:
            with atomic_write(folder / f"labels{part}" / label_name) as draft:
                _write_label(one, images[0], job, draft)
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


def open_image(file: Path, job: Job, n_files: int = 1) -> Opened:
    """Open one of the `n_files` images of a case. Values are read only where they can be at fault, or have
    to be written anew."""
    if is_picture(file):
        return _open_picture(file, job, n_files)
    opened = _open_volume(file, job)
    if len(opened.grid.size) == 4:
        return replace(opened, grid=opened.grid.first_channel(), n_channels=opened.grid.size[3])
    return opened


def _open_picture(file: Path, job: Job, n_files: int) -> Opened:
    if job.reader == TIFF:
        raise ValueError(f"{file} is a volume in a TIFF file, of which nnU-Net takes the dataset as it is.")
    convert = job.source.pixels.image
    if not (convert or job.resize):
        n_channels = n_channels_of_picture(file)
        if n_channels != 2 and n_channels * n_files == len(job.source.channel_names):  # alpha may be one
            picture = read_channels(file)
            return Opened(file, Grid.of_picture(picture.shape[:2]), n_channels, picture)
    picture = (convert or read_picture)(file)
    grid = Grid.of_picture(picture.shape[:2])
    as_it_is = not (convert or job.resize) and is_plain(file, picture)
    picture = resized(picture, job.resize, labels=False) if job.resize else picture
    return Opened(file, grid, 1 if picture.ndim == 2 else picture.shape[-1], picture, as_it_is=as_it_is)


def _open_volume(file: Path, job: Job, *, with_values: bool = False) -> Opened:
    """Integers are always finite, so of compressed NIfTI files that hold them only the checksum is read."""
    try:
        header = read_header(file, job.reader)
    except ValueError:
        require_whole(file)  # says of a file that was cut short that it was, where readers lack words
        raise
    values = None
    if with_values or header.is_float or len(header.grid.size) > 3 or not is_nifti(file):
        values = read_values(file)
    else:
        require_whole(file)
    contradiction = header_contradiction(file)
    as_it_is = header.n_axes == len(header.grid.size)  # else nnU-Net's readers by nibabel refuse it
    return Opened(file, header.grid, 1, values, header.n_components, contradiction, as_it_is)


def open_label(files: Sequence[Path], job: Job) -> Opened:
    """Open the label of a case, as its files have it or are drawn together."""
    if job.source.pixels.label:
        values = job.source.pixels.label(tuple(files))
    elif is_picture(files[0]):
        values = one_channel(read_picture(files[0]), files[0])
    else:
        return _open_volume(files[0], job, with_values=True)
    as_it_is = not job.source.pixels.label and is_plain(files[0], values)
    return Opened(files[0], Grid.of_picture(values.shape), values=values, as_it_is=as_it_is)


def faults_of_images(case: Case, images: Sequence[Opened], job: Job) -> Iterator[Fault]:
    found, expected = sum(image.n_channels for image in images), len(job.source.channel_names)
    if found != expected:
        what = f"{images[0].file} and its kin hold {found} channels, the dataset has {expected}"
        yield Fault("shape", case.name, what)
    for image in images:
        yield from _faults_of_header(case, image)
        if image.values is not None and image.n_components == 1 and not np.isfinite(image.values).all():
            n = int((~np.isfinite(image.values)).sum())
            yield Fault("values", case.name, f"{image.file} holds {n} values that are NaN or infinite")
        yield from _grids_differ(case, image, images[0], job)


def faults_of_label(case: Case, label: Opened, image: Opened, job: Job) -> Iterator[Fault]:
    yield from _faults_of_header(case, label)
    yield from _grids_differ(case, label, image, job)
    if label.n_components > 1:
        return
    known = job.source.pixels.recode or {value: value for value in job.source.label_values}
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


def _faults_of_header(case: Case, opened: Opened) -> Iterator[Fault]:
    if opened.contradiction:
        what = f"the header of {opened.file} contradicts itself: {opened.contradiction}"
        yield Fault("header", case.name, f"{what}; readers take the one or the other")
    if opened.n_components > 1:
        what = f"{opened.file} holds {opened.n_components} values per voxel, as colours and vectors do"
        yield Fault("values", case.name, f"{what}; expected one, and channels in files of their own")


def _grids_differ(case: Case, one: Opened, other: Opened, job: Job) -> Iterator[Fault]:
    difference = one.grid.difference(other.grid)
    if not difference:
        return
    kind = "shape" if difference.startswith("size") else "geometry"
    if other.grid.reordering(one.grid):
        if job.reader in REORIENTING:
            return  # which turns both alike
        kind, difference = "geometry", f"the order in which they store the same voxels ({difference})"
    yield Fault(kind, case.name, f"{one.file} and {other.file.name} differ in {difference}")


def file_names(case: Case, source: Source) -> tuple[list[str], str]:
    """Return what nnU-Net calls the images of a case, and its label. Colours share one file."""
    ending = source.file_ending
    label = f"{case.name}{ending}"
    n = len(case.images) if is_picture(Path(label)) else len(source.channel_names)
    return [f"{case.name}_{channel:04d}{ending}" for channel in range(n)], label


def _write_image(image: Opened, channel: int, first: Opened, job: Job, target: Path) -> None:
    """Write one channel on the grid of the case's first image, also where another one was accepted."""
    is_volume_of_many = image.n_channels > 1 and not is_picture(image.file)
    if image.as_it_is and not (is_volume_of_many or image.grid.difference(first.grid)):
        _take_over(image.file, target, job)
        return
    values = read_values(image.file) if image.values is None else image.values
    one = values[channel] if is_volume_of_many else values
    write_like(first.grid.reorder(one, image.grid), first.file, target)


def _write_label(label: Opened, image: Opened, job: Job, target: Path) -> None:
    """Write a label on its image's grid, also where another one was accepted."""
    pixels = job.source.pixels
    assert label.values is not None
    moved = label.grid.difference(image.grid) is not None
    if label.as_it_is and not (moved or pixels.recode or job.resize or label.values.dtype.kind == "f"):
        _take_over(label.file, target, job)
        return
    values = stored = label.values if label.values.dtype.kind in "iu" else np.rint(label.values)
    if pixels.recode:
        values = np.zeros(stored.shape, np.min_scalar_type(max(pixels.recode.values())))
        for old, new in pixels.recode.items():
            values[stored == old] = new
    if job.resize and is_picture(label.file):
        values = resized(values, job.resize, labels=True)
    write_label_map(image.grid.reorder(values, label.grid), image.file if moved else label.file, target)


def _take_over(file: Path, target: Path, job: Job) -> None:
    """Link or copy; another format is written anew."""
    if not file.name.endswith(job.source.file_ending):
        write_like(read_channels(file) if is_picture(file) else read_values(file), file, target)
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
