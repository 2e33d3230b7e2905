"""Input and output of one case: its files are opened and checked, then written as nnU-Net needs them."""

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
    check_complete,
    count_picture_channels,
    find_header_contradiction,
    get_reader_name,
    is_nifti,
    is_picture,
    is_plain,
    merge_equal_channels,
    read_channels,
    read_header,
    read_picture,
    read_values,
    write_label_map,
    write_like,
)
from nnunet_mamba.study.datasets.pictures import resize_picture
from nnunet_mamba.study.datasets.source import Case, Issue, Source

ROUNDING = 1e-3  # labels stored as floats may be off by so much


@dataclass(frozen=True)
class ConversionTask:
    """Options that all cases of a conversion share.

    accepted   kinds of issues with which a case is written all the same
    resize     (y, x) of pictures, None: unchanged
    workspace  folder of temporary files, which are hard-linked instead of copied
    """

    source: Source
    link: bool = False
    accepted: frozenset[str] = frozenset()
    resize: tuple[int, int] | None = None
    workspace: Path | None = None

    @property
    def reader(self) -> str:
        """nnU-Net's reader for the files that are written."""
        return get_reader_name({**self.source.extra, "file_ending": self.source.file_ending})

    def is_temporary(self, file: Path) -> bool:
        """Return whether `file` lies in the workspace."""
        return self.workspace is not None and file.is_relative_to(self.workspace)


@dataclass(frozen=True)
class OpenedFile:
    """File with the grid of one channel, and its values where these had to be read.

    values         (..., y, x), colours last
    n_components   values per voxel of a channel
    contradiction  in the header, in words
    copyable       nnU-Net reads the file as we do, so that it may be copied or linked
    """

    file: Path
    grid: Grid
    n_channels: int = 1
    values: np.ndarray | None = None
    n_components: int = 1
    contradiction: str | None = None
    copyable: bool = True


def convert_case(case: Case, task: ConversionTask, folder: Path, part: str) -> list[Issue]:
    """Write a case to imagesPART and labelsPART (part: Tr or Ts) of `folder`, and return its issues.

    Nothing is written if there is an issue of a kind that is not accepted.
    """
    readers = [partial(open_image, file, task, len(case.images)) for file in case.images]
    readers += [partial(open_label, case.labels, task)] if case.labels else []
    opened, issues = _open_all(case, readers)
    if len(opened) == len(readers):
        images, label = opened[: len(case.images)], opened[len(case.images) :]
        issues += find_image_issues(case, images, task)
        issues += find_label_issues(case, label[0], images[0], task) if label else []
    if all(issue.kind in task.accepted for issue in issues):
        image_names, label_name = build_file_names(case, task.source)
        places = [(image, channel) for image in images for channel in range(image.n_channels)]
        for name, (image, channel) in zip(image_names, places, strict=False):  # colours go together
            with atomic_write(folder / f"images{part}" / name) as draft:
                _write_image(image, channel, images[0], task, draft)
        for one in label:
            with atomic_write(folder / f"labels{part}" / label_name) as draft:
                _write_label(one, images[0], task, draft)
    return issues


def _open_all(
    case: Case, readers: Sequence[Callable[[], OpenedFile]]
) -> tuple[list[OpenedFile], list[Issue]]:
    """Return the files that can be read, and an issue for each that cannot."""
    opened, issues = [], []
    for read in readers:
        try:
            opened.append(read())
        except ValueError as error:
            issues.append(Issue("unreadable", case.name, str(error)))
    return opened, issues


def open_image(file: Path, task: ConversionTask, n_files: int = 1) -> OpenedFile:
    """Open one of the `n_files` images of a case.

    Values are read only if they may be invalid, or have to be written anew.
    """
    if is_picture(file):
        return _open_picture(file, task, n_files)
    opened = _open_volume(file, task)
    if len(opened.grid.size) == 4:
        return replace(opened, grid=opened.grid.first_channel(), n_channels=opened.grid.size[3])
    return opened


def _open_picture(file: Path, task: ConversionTask, n_files: int) -> OpenedFile:
    """Open a picture, and convert its colours and size where the task says so."""
    if task.reader == TIFF:
        raise ValueError(f"{file} is a volume in a TIFF file, of which nnU-Net takes the dataset as it is.")
    convert = task.source.pixels.image
    if not (convert or task.resize):
        n_channels = count_picture_channels(file)
        if n_channels != 2 and n_channels * n_files == len(task.source.channel_names):  # alpha may be one
            picture = read_channels(file)
            return OpenedFile(file, Grid.of_picture(picture.shape[:2]), n_channels, picture)
    picture = (convert or read_picture)(file)
    grid = Grid.of_picture(picture.shape[:2])
    copyable = not (convert or task.resize) and is_plain(file, picture)
    picture = resize_picture(picture, task.resize, labels=False) if task.resize else picture
    return OpenedFile(file, grid, 1 if picture.ndim == 2 else picture.shape[-1], picture, copyable=copyable)


def _open_volume(file: Path, task: ConversionTask, *, with_values: bool = False) -> OpenedFile:
    """Open a volume; of NIfTI files with integers, which are always finite, only the checksum is read."""
    try:
        header = read_header(file, task.reader)
    except ValueError:
        check_complete(file)  # a better message for a file that was cut short than the reader's
        raise
    values = None
    if with_values or header.is_float or len(header.grid.size) > 3 or not is_nifti(file):
        values = read_values(file)
    else:
        check_complete(file)
    contradiction = find_header_contradiction(file)
    copyable = header.n_axes == len(header.grid.size)  # else nnU-Net's readers by nibabel refuse it
    return OpenedFile(file, header.grid, 1, values, header.n_components, contradiction, copyable)


def open_label(files: Sequence[Path], task: ConversionTask) -> OpenedFile:
    """Open the label of a case: its file, or a label map that is drawn from its files."""
    if task.source.pixels.label:
        values = task.source.pixels.label(tuple(files))
    elif is_picture(files[0]):
        values = merge_equal_channels(read_picture(files[0]), files[0])
    else:
        return _open_volume(files[0], task, with_values=True)
    copyable = not task.source.pixels.label and is_plain(files[0], values)
    return OpenedFile(files[0], Grid.of_picture(values.shape), values=values, copyable=copyable)


def find_image_issues(case: Case, images: Sequence[OpenedFile], task: ConversionTask) -> Iterator[Issue]:
    """Yield issues with the number of channels, headers, values and grids of a case's images."""
    found, expected = sum(image.n_channels for image in images), len(task.source.channel_names)
    if found != expected:
        message = (
            f"{images[0].file} and the case's other images hold {found} channels, the dataset has {expected}"
        )
        yield Issue("shape", case.name, message)
    for image in images:
        yield from _find_header_issues(case, image)
        if image.values is not None and image.n_components == 1 and not np.isfinite(image.values).all():
            n = int((~np.isfinite(image.values)).sum())
            yield Issue("values", case.name, f"{image.file} holds {n} values that are NaN or infinite")
        yield from _find_grid_issues(case, image, images[0], task)


def find_label_issues(
    case: Case, label: OpenedFile, image: OpenedFile, task: ConversionTask
) -> Iterator[Issue]:
    """Yield issues with a case's label: its header, its values, and its grid, compared with the image's."""
    yield from _find_header_issues(case, label)
    yield from _find_grid_issues(case, label, image, task)
    if label.n_components > 1:
        return
    known = task.source.pixels.recode or {value: value for value in task.source.label_values}
    found = np.unique(label.values)  # type: ignore[arg-type]
    with np.errstate(invalid="ignore"):
        broken = found[~(np.abs(found - np.rint(found)) < ROUNDING)]  # NaN and infinity are not below it
    if broken.size:
        yield Issue("labels", case.name, f"{label.file} holds {broken[0]:g}; labels are whole numbers")
        return
    found = np.rint(found).astype(np.int64)
    unknown = sorted(set(found.tolist()) - set(known))
    if unknown:
        message = f"{label.file} holds the label {unknown[0]}, which the dataset does not know"
        yield Issue("labels", case.name, f"{message} (it knows {sorted(known)})")
    elif not any(known[int(value)] for value in found):
        yield Issue("empty", case.name, f"{label.file} holds background only")


def _find_header_issues(case: Case, opened: OpenedFile) -> Iterator[Issue]:
    """Yield issues for a header that contradicts itself, and for several values per voxel."""
    if opened.contradiction:
        message = f"the header of {opened.file} contradicts itself: {opened.contradiction}"
        yield Issue("header", case.name, f"{message}; readers take the one or the other")
    if opened.n_components > 1:
        message = f"{opened.file} holds {opened.n_components} values per voxel, as colours and vectors do"
        yield Issue("values", case.name, f"{message}; expected one, and channels in files of their own")


def _find_grid_issues(
    case: Case, one: OpenedFile, other: OpenedFile, task: ConversionTask
) -> Iterator[Issue]:
    """Yield an issue if two grids differ; another order of the axes only where nnU-Net does not reorient."""
    difference = one.grid.difference(other.grid)
    if not difference:
        return
    kind = "shape" if difference.startswith("size") else "geometry"
    if other.grid.reordering(one.grid):
        if task.reader in REORIENTING:
            return  # such readers reorient both alike
        kind, difference = "geometry", f"the order in which they store the same voxels ({difference})"
    yield Issue(kind, case.name, f"{one.file} and {other.file.name} differ in {difference}")


def build_file_names(case: Case, source: Source) -> tuple[list[str], str]:
    """Return nnU-Net's names for the images of a case, and for its label. Colours share one file."""
    ending = source.file_ending
    label = f"{case.name}{ending}"
    n = len(case.images) if is_picture(Path(label)) else len(source.channel_names)
    return [f"{case.name}_{channel:04d}{ending}" for channel in range(n)], label


def _write_image(
    image: OpenedFile, channel: int, first: OpenedFile, task: ConversionTask, target: Path
) -> None:
    """Write one channel on the grid of the case's first image, also if another grid was accepted."""
    is_volume_of_many = image.n_channels > 1 and not is_picture(image.file)
    if image.copyable and not (is_volume_of_many or image.grid.difference(first.grid)):
        _link_or_copy(image.file, target, task)
        return
    values = read_values(image.file) if image.values is None else image.values
    one = values[channel] if is_volume_of_many else values
    write_like(first.grid.reorder(one, image.grid), first.file, target)


def _write_label(label: OpenedFile, image: OpenedFile, task: ConversionTask, target: Path) -> None:
    """Write a label on its image's grid, also if another grid was accepted."""
    pixels = task.source.pixels
    assert label.values is not None
    moved = label.grid.difference(image.grid) is not None
    if label.copyable and not (moved or pixels.recode or task.resize or label.values.dtype.kind == "f"):
        _link_or_copy(label.file, target, task)
        return
    values = stored = label.values if label.values.dtype.kind in "iu" else np.rint(label.values)
    if pixels.recode:
        values = np.zeros(stored.shape, np.min_scalar_type(max(pixels.recode.values())))
        for old, new in pixels.recode.items():
            values[stored == old] = new
    if task.resize and is_picture(label.file):
        values = resize_picture(values, task.resize, labels=True)
    write_label_map(image.grid.reorder(values, label.grid), image.file if moved else label.file, target)


def _link_or_copy(file: Path, target: Path, task: ConversionTask) -> None:
    """Link or copy a file; another format is written anew."""
    if not file.name.endswith(task.source.file_ending):
        write_like(read_channels(file) if is_picture(file) else read_values(file), file, target)
        return
    try:
        if task.is_temporary(file):
            target.hardlink_to(file)
            return
        if task.link:
            target.symlink_to(file.resolve())
            return
    except OSError:  # no links on this file system, or no right to make them
        pass
    shutil.copyfile(file, target)
