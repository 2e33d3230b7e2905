"""Preprocessed data: a folder that several plans, and several studies, may share.

Its subfolder `sweep` states what the data were made from and which jobs they stand for. nnU-Net clears it
with the data; a file beside them would be a case of another format to it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.io.locks import HeldLock, hold_lock
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.nnunet.preprocessing import get_configuration, select_preprocessing
from nnunet_mamba.study.sweep.checksums import compute_checksum


@dataclass(frozen=True)
class PreprocessedData:
    """Data of one configuration of plans, which need not exist yet. `raw` is the raw dataset."""

    plans: Path  # file
    configuration: str
    raw: Path

    @property
    def folder(self) -> Path:
        """Return the folder. ValueError if the plans lack the configuration."""
        content = json.loads(self.plans.read_text(encoding="utf-8"))
        return self.plans.parent / get_configuration(content, self.configuration)["data_identifier"]

    def describe(self) -> str:
        """Return a text that changes with all that the data are made from."""
        content = json.loads(self.plans.read_text(encoding="utf-8"))
        settings = json.dumps(select_preprocessing(content, self.configuration), sort_keys=True)
        return hashlib.sha256(f"{settings} {compute_checksum([self.raw])}".encode()).hexdigest()

    def is_current(self) -> bool:
        """Return whether the data exist and were made from these settings and this dataset."""
        file = self.folder / "sweep" / "made_from"
        return file.is_file() and file.read_text(encoding="utf-8") == self.describe()

    def stands_for(self, cache_key: str) -> bool:
        """Return whether the data exist and a job of this cache key has found or made them so."""
        try:
            return (self.folder / "sweep" / cache_key).is_file()
        except (OSError, ValueError):
            return False  # there are no such plans yet

    def forget(self) -> None:
        """State that the data are of no known origin, as while they are made."""
        shutil.rmtree(self.folder / "sweep", ignore_errors=True)

    def mark(self, made_from: str) -> None:
        """State what the data were made from, as `describe` gave it before."""
        write_text(self.folder / "sweep" / "made_from", made_from)

    def add(self, cache_key: str) -> None:
        """State that the data are those of a job of this cache key."""
        (self.folder / "sweep" / cache_key).touch()


@contextmanager
def hold_data(
    data: PreprocessedData, log: LogFn, *, owner: str, fill: bool = False
) -> Iterator[tuple[HeldLock, bool]]:
    """Keep others from changing the data meanwhile; yield the lock, and whether the data are current.

    `fill`: keep others from reading them too, unless they are current, for the `owner` is to make them.
    """
    file = data.folder.with_name(f"{data.folder.name}.lock")
    reader = "" if fill else owner
    with hold_lock(file, log, owner=reader, shared=True, wait=True) as lock:
        is_current = data.is_current()
        if is_current or not fill:
            yield lock, is_current
            return
    with hold_lock(file, log, owner=owner, wait=True) as lock:
        yield lock, data.is_current()
