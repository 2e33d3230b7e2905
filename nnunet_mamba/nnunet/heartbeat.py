"""Messages at least every few seconds, so that a user sees that the work goes on."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from nnunet_mamba.nnunet.console import LogFn, format_duration

EVERY_S = 9.0


class Heartbeat:
    """Logger that passes messages on, and while open adds one whenever there was none for `every_s` seconds.

    `doing` names the work, which started when it was set.
    """

    def __init__(self, log: LogFn, every_s: float = EVERY_S) -> None:
        self._log, self.every_s = log, every_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._said_at = time.monotonic()
        self.doing = "working"

    @property
    def doing(self) -> str:
        return self._work[0]

    @doing.setter
    def doing(self, work: str) -> None:
        self._work = (work, time.monotonic())

    def __call__(self, text: str) -> None:
        with self._lock:
            self._log(text)
            self._said_at = time.monotonic()

    def __enter__(self) -> Heartbeat:
        self._said_at = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._closed.wait(max(0.0, self._said_at + self.every_s - time.monotonic())):
            if time.monotonic() - self._said_at >= self.every_s:
                work, since = self._work
                try:
                    self(f"      ... {work}: {format_duration(time.monotonic() - since)}")
                except OSError:
                    return  # nobody listens any more, as the work itself will notice
