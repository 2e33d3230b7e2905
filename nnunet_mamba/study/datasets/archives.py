"""Downloaded archives, which are not trusted: only plain files that stay within the folder are unpacked."""

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
    """Return whether `file` exists and its name has one of `ENDINGS`."""
    return file.is_file() and _get_ending(file) != ""


def _get_ending(file: Path) -> str:
    """Return the one of `ENDINGS` that the name has, "" for none."""
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), "")


@contextmanager
def unpack_archives(sources: Sequence[Path], workspace: Path) -> Iterator[list[Path]]:
    """Yield a folder for each source: itself, or the contents of the archive, unpacked below `workspace`.

    Unpacked files are removed at the end, but kept for the next attempt if an error occurs.
    ValueError for a source that is neither folder nor archive, and for archives that cannot be trusted.
    """
    _check_sources(sources)
    folders, used = [], []
    for source in sources:
        if source.is_dir():
            folders.append(source)
            continue
        state = source.stat()
        used.append(workspace / f"{state.st_size}-{state.st_mtime_ns}")
        folders.append(used[-1] / source.name[: -len(_get_ending(source))])  # the top of some layouts
        if not folders[-1].exists():
            unpack(source, folders[-1])
    yield folders
    if used:
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def outline_archives(sources: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield folders like `unpack_archives`, but only descriptions have contents, other files are empty.

    For a dry run; nothing is kept.
    """
    _check_sources(sources)
    with tempfile.TemporaryDirectory() as name:
        folders = []
        for number, source in enumerate(sources):
            if source.is_dir():
                folders.append(source)
                continue
            folders.append(Path(name, str(number), source.name[: -len(_get_ending(source))]))
            unpack(source, folders[-1], only=DESCRIPTIONS)
        yield folders


def _check_sources(sources: Sequence[Path]) -> None:
    """Raise ValueError unless each source is a folder or an archive."""
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist.")
        if not (source.is_dir() or is_archive(source)):
            raise ValueError(f"{source} is neither a folder nor an archive ({', '.join(ENDINGS)}).")


def unpack(archive: Path, folder: Path, only: tuple[str, ...] | None = None) -> None:
    """Write the contents of `archive` to the new `folder`; after an error there is no folder.

    only: endings of files to fill, all others are left empty; None: fill all.
    """
    with atomic_directory(folder) as draft, _open(archive) as (opened, members):
        wanted = [member for member in members if only is None or member.name.endswith(only)]
        check_free_space(draft.parent, sum(member.n_bytes for member in wanted))
        for member in members:
            target = draft / member.name
            if member.is_folder:  # an empty one may be a case whose files are missing
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
            if member in wanted:
                with opened(member.name) as stream, target.open("wb") as out:
                    shutil.copyfileobj(stream, out)


class Member(NamedTuple):
    """Plain file or folder in an archive."""

    name: str
    n_bytes: int
    is_folder: bool = False


@contextmanager
def _open(archive: Path) -> Iterator[tuple[Callable[[str], Any], list[Member]]]:
    """Yield a function that opens a file of the archive, and the archive's members.

    ValueError if the archive is damaged or has members that cannot be trusted.
    """
    try:
        if _get_ending(archive) == ".zip":
            with zipfile.ZipFile(archive) as file:
                yield file.open, [_read_zip_member(archive, info) for info in file.infolist()]
        else:
            with tarfile.open(archive) as file:
                infos = file.getmembers()
                _check_end(file)
                yield file.extractfile, [_read_tar_member(archive, info) for info in infos]
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or packed in a way Python does not know
        raise ValueError(
            f"{archive} cannot be unpacked ({error}). Unpack it, and give the folder."
        ) from error
    except READ_ERRORS as error:
        raise ValueError(f"{archive} cannot be unpacked ({error}). Download it again.") from error


def _check_end(file: tarfile.TarFile) -> None:
    """Raise ReadError unless a tar ends with a block of zeros: Python accepts one cut within a header."""
    if isinstance(file.fileobj, io.BufferedReader):  # compressed ones have an end of their own
        file.fileobj.seek(file.offset)
        if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def _read_zip_member(archive: Path, info: zipfile.ZipInfo) -> Member:
    link = stat.S_ISLNK(info.external_attr >> 16)
    return _build_member(archive, info.filename, info.file_size, plain=not link, is_folder=info.is_dir())


def _read_tar_member(archive: Path, info: tarfile.TarInfo) -> Member:
    plain = info.isfile() or info.isdir()
    return _build_member(archive, info.name, info.size, plain=plain, is_folder=info.isdir())


def _build_member(archive: Path, name: str, n_bytes: int, *, plain: bool, is_folder: bool) -> Member:
    """Return a member; ValueError for links, devices, and names that lead outside.

    Names must be safe by the rules of POSIX and of Windows: an archive may be opened on either.
    """
    if not plain:
        raise ValueError(f"{archive} holds {name!r}, a link or device; only plain files are taken.")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.root or path.drive or ".." in path.parts:
            raise ValueError(
                f"{archive} holds {name!r}, which would be written outside of its folder. "
                "Such an archive is not safe; nothing was unpacked."
            )
    return Member(name, n_bytes, is_folder)


def check_free_space(folder: Path, n_bytes: int, advice: str = "make room") -> None:
    """Raise ValueError if the disk of `folder` has less than `n_bytes` left."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise ValueError(
            f"{folder} has {free / 2**30:.1f} GiB left, but {n_bytes / 2**30:.1f} GiB are needed; {advice}."
        )
