"""Unpacking downloads without trusting them: what would leave the folder, or is no plain file, is refused."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from nnunet_mamba.datasets.files import complete_or_absent

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, gzip.BadGzipFile)


def is_archive(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(ENDINGS)


@contextmanager
def unpacked(sources: Sequence[Path], scratch: Path) -> Iterator[list[Path]]:
    """A folder for each source: itself, or what the archive holds, unpacked below `scratch`.

    `scratch` is removed if all goes well and kept if not, so that the next attempt need not unpack again.
    ValueError for what is neither folder nor archive, and for archives that cannot be trusted.
    """
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist.")
        if not (source.is_dir() or is_archive(source)):
            raise ValueError(f"{source} is neither a folder nor an archive ({', '.join(ENDINGS)}).")
    folders = []
    for source in sources:
        state = source.stat()
        folder = scratch / f"{source.name}-{state.st_size}-{state.st_mtime_ns}"
        if source.is_file() and not folder.exists():
            unpack(source, folder)
        folders.append(source if source.is_dir() else folder)
    yield folders
    shutil.rmtree(scratch, ignore_errors=True)


def contents(archive: Path) -> tuple[int, int]:
    """Files in an archive and their bytes, unpacked."""
    with _opened(archive) as (_, members):
        return len(members), sum(member.n_bytes for member in members)


def unpack(archive: Path, folder: Path) -> None:
    """The contents of `archive` as the new `folder`, or nothing at all."""
    with complete_or_absent(folder) as draft, _opened(archive) as (opened, members):
        _require_room(draft, sum(member.n_bytes for member in members))
        for member in members:
            target = draft / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened(member.name) as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out)


class Member(NamedTuple):
    """A plain file in an archive."""

    name: str
    n_bytes: int


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[Callable[[str], Any], list[Member]]]:
    """How to open a file of the archive, and its files; ValueError if it is damaged or not honest."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield file.open, [_zip_member(archive, info) for info in file.infolist() if not info.is_dir()]
        else:
            with tarfile.open(archive) as file:
                infos = [info for info in file.getmembers() if not info.isdir()]
                _require_end(file)
                yield file.extractfile, [_tar_member(archive, info) for info in infos]
    except READ_ERRORS as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}). Fetch it again.") from error


def _require_end(file: tarfile.TarFile) -> None:
    """Python takes a tar that was cut within a header for whole; it ends with a block of zeros."""
    if isinstance(file.fileobj, io.BufferedReader):  # others are compressed, which has an end of its own
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def _zip_member(archive: Path, info: zipfile.ZipInfo) -> Member:
    link = stat.S_ISLNK(info.external_attr >> 16)
    return _honest(archive, info.filename, info.file_size, plain=not link)


def _tar_member(archive: Path, info: tarfile.TarInfo) -> Member:
    return _honest(archive, info.name, info.size, plain=info.isfile())


def _honest(archive: Path, name: str, n_bytes: int, *, plain: bool) -> Member:
    """Names are judged by the rules of both worlds: an archive made in the one may be opened in the other."""
    if not plain:
        raise ValueError(f"{archive} holds {name!r}, a link or device; only plain files are taken.")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.root or path.drive or ".." in path.parts:
            raise ValueError(
                f"{archive} holds {name!r}, which would be written outside of its folder. "
                "This is no honest archive; nothing was unpacked."
            )
    return Member(name, n_bytes)


def _require_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise ValueError(
            f"{folder.parent} has {free / 2**30:.1f} GiB left, but {n_bytes / 2**30:.1f} GiB are needed."
        )
