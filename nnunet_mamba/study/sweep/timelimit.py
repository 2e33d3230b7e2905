"""A training that is longer than SLURM lets a job run: it stops in time and is queued again, as long as it
gets on."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import TracebackType

from nnunet_mamba.study.sweep import slurm
from nnunet_mamba.study.sweep.job import Job

MARGIN_S = 120.0  # before the limit, for the command to stop


class TimeLimit:
    """Within `with`, this process gets SIGTERM shortly before its limit, and `near` is true.

    Only for a training that has written a checkpoint meanwhile: another one would be queued again for ever.
    """

    def __init__(self, job: Job) -> None:
        self.near = False
        self._fold = job.own_folder if job.kind == "train" else None
        self._before: dict[Path, int] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> TimeLimit:
        self._before = self._checkpoints()
        left_s = slurm.seconds_left() if self._fold else None
        if left_s is not None:
            self._timer = threading.Timer(max(left_s - MARGIN_S, 0), self._stop)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _stop(self) -> None:
        if self._checkpoints() != self._before:
            self.near = True
            os.kill(os.getpid(), signal.SIGTERM)

    def _checkpoints(self) -> dict[Path, int]:
        """When each was written."""
        files = self._fold.glob("checkpoint_*.pth") if self._fold else ()
        return {file: file.stat().st_mtime_ns for file in files}
