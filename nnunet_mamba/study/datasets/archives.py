"""Unpacking downloads without trusting them: what would leave the folder, or is no plain file, is refused."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from nnunet_mamba.io.atomic import atomic_directory

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
DESCRIPTIONS = (".json", ".cfg")
READ_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError,
)  # fmt: skip


def is_archive(file: Path) -> bool:
    return file.is_file() and _ending(file) != ""


def _ending(file: Path) -> str:
    """Which of `ENDINGS` the name has, "" for none."""
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), "")


@contextmanager
def unpacked(sources: Sequence[Path], scratch: Path) -> Iterator[list[Path]]:
    """A folder for each source: itself, or what the archive holds, unpacked below `scratch`.

    What was unpacked is removed if all goes well and kept if not, for the next attempt.
    ValueError for what is neither folder nor archive, and for archives that cannot be trusted.
    """
    _require_sources(sources)
    folders, used = [], []
    for source in sources:
        if source.is_dir():
            folders.append(source)
            continue
        state = source.stat()
        used.append(scratch / f"{state.st_size}-{state.st_mtime_ns}")
        folders.append(used[-1] / source.name[: -len(_ending(source))])  # layouts may begin with this name
        if not folders[-1].exists():
            unpack(source, folders[-1])
    yield folders
    if used:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def outlined(sources: Sequence[Path]) -> Iterator[list[Path]]:
    """As `unpacked`, but archives give only names and the contents of descriptions; for a dry run."""
    _require_sources(sources)
    with tempfile.TemporaryDirectory() as name:
        folders = []
        for number, source in enumerate(sources):
            if source.is_dir():
                folders.append(source)
                continue
            folders.append(Path(name, str(number), source.name[: -len(_ending(source))]))
            unpack(source, folders[-1], only=DESCRIPTIONS)
        yield folders


def _require_sources(sources: Sequence[Path]) -> None:
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist.")
        if not (source.is_dir() or is_archive(source)):
            raise ValueError(f"{source} is neither a folder nor an archive ({', '.join(ENDINGS)}).")


def unpack(archive: Path, folder: Path, only: tuple[str, ...] | None = None) -> None:
    """The contents of `archive` as the new `folder`, or nothing at all.

    only: endings of files to fill, all others are left empty; None: fill all.
    """
    with atomic_directory(folder) as draft, _opened(archive) as (opened, members):
        wanted = [member for member in members if only is None or member.name.endswith(only)]
        _require_room(draft, sum(member.n_bytes for member in wanted))
        for member in members:
            target = draft / member.name
            if member.is_folder:  # an empty one may be a case that has vanished
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
            if member in wanted:
                with opened(member.name) as stream, target.open("wb") as out:
                    shutil.copyfileobj(stream, out)


class Member(NamedTuple):
    """A plain file or folder in an archive."""

    name: str
    n_bytes: int
    is_folder: bool = False


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[Callable[[str], Any], list[Member]]]:
    """How to open a file of the archive, and what it holds; ValueError if it is damaged or not honest."""
    try:
        if _ending(archive) == ".zip":
            with zipfile.ZipFile(archive) as file:
                yield file.open, [_zip_member(archive, info) for info in file.infolist()]
        else:
            with tarfile.open(archive) as file:
                infos = file.getmembers()
                _require_end(file)
                yield file.extractfile, [_tar_member(archive, info) for info in infos]
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or packed in a way Python does not know
        raise ValueError(
            f"{archive} cannot be unpacked ({error}). Unpack it, and give the folder."
        ) from error
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
    return _honest(archive, info.filename, info.file_size, plain=not link, is_folder=info.is_dir())


def _tar_member(archive: Path, info: tarfile.TarInfo) -> Member:
    plain = info.isfile() or info.isdir()
    return _honest(archive, info.name, info.size, plain=plain, is_folder=info.isdir())


def _honest(archive: Path, name: str, n_bytes: int, *, plain: bool, is_folder: bool) -> Member:
    """Names are judged by the rules of both worlds: an archive made in the one may be opened in the other."""
    if not plain:
        raise ValueError(f"{archive} holds {name!r}, a link or device; only plain files are taken.")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.root or path.drive or ".." in path.parts:
            raise ValueError(
                f"{archive} holds {name!r}, which would be written outside of its folder. "
                "This is no honest archive; nothing was unpacked."
            )
    return Member(name, n_bytes, is_folder)


def _require_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise ValueError(
            f"{folder.parent} has {free / 2**30:.1f} GiB left, but {n_bytes / 2**30:.1f} GiB are needed."
        )
