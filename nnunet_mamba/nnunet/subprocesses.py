"""Subprocesses whose output is shown at once, kept in a log, and which never outlive their caller."""

import codecs
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_S = 10.0  # between asking a child to stop and stopping it
TAIL_LINES = 12  # of the log, in the message about a failure
KEPT_LINES = 200  # of the log, for finding the cause
OUTPUT = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace"}  # of a child that is Python


class ChildFailedError(RuntimeError):
    """Failure of a command; the message carries the reason and the end of its log.

    `code` is its exit code, negative for a signal; `lines` are the last that it printed.
    """

    def __init__(self, message: str, *, code: int, lines: Sequence[str]) -> None:
        super().__init__(message)
        self.code = code
        self.lines = tuple(lines)


def run_child(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    log_file: Path,
    show: Callable[[str], None],
    inherit: Sequence[int] = (),
    started: Callable[[int], None] = lambda pid: None,
) -> None:
    """Run a command to its end; `show` gets each line (progress bars included) at once, the log every byte.

    Whatever ends this function early also ends the child and its workers. `inherit` are file descriptors that
    the child keeps open; `started` is called with its process number.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    child = subprocess.Popen(
        argv,
        env={**os.environ, **OUTPUT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us alone, and the child's workers are found by its group
        pass_fds=tuple(inherit),
    )
    assert child.stdout is not None
    try:
        started(child.pid)
        with log_file.open("ab", buffering=0) as stream:
            for line in iterate_lines(child.stdout, stream):
                if line.strip():
                    tail.append(line.rstrip())
                show(line)
        code = child.wait()
    except BaseException:
        stop(child)
        raise
    if code != 0:
        message = format_failure(Path(argv[0]).name, code, list(tail)[-TAIL_LINES:], log_file)
        raise ChildFailedError(message, code=code, lines=tail)


def iterate_lines(source: IO[bytes], copy: IO[bytes]) -> Iterator[str]:
    """Yield lines, split at line ends and at the carriage returns of progress bars; `copy` gets the bytes
    unchanged.

    A copy that cannot be written, as on a full disk, does not end the work.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while chunk := os.read(source.fileno(), 1 << 16):
        with suppress(OSError):
            copy.write(chunk)
        *lines, rest = re.split(r"[\r\n]", rest + decoder.decode(chunk))
        yield from lines
    if rest:
        yield rest


def stop(child: "subprocess.Popen[bytes]", grace_s: float = GRACE_S) -> None:
    """End the child and everything in its process group: SIGTERM first, SIGKILL if it does not end.

    Windows has neither: there the child and its descendants are ended at once.
    """
    if not hasattr(os, "killpg"):
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True)
        child.wait()
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
            child.wait(grace_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def format_failure(program: str, code: int, tail: list[str], log_file: Path) -> str:
    """Return a message: program, exit code, a one-line reason, the end of the log, and its path."""
    quoted = "\n".join(f"    {line[:200]}" for line in tail) or "    (it printed nothing)"
    what = f"{program} failed with {describe_exit_code(code)}: {find_error_line(tail)}"
    return f"{what}\n{quoted}\n  The whole log: {log_file}"


def describe_exit_code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"signal {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")


def find_error_line(tail: Sequence[str]) -> str:
    """Return the last line that names an exception, or the last line at all."""
    named = [line for line in tail if re.match(r"\s*[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (named or list(tail) or ["no output"])[-1].strip()[:300]


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, so that child processes are ended.

    A repeated signal is ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        names = []  # Python allows handlers there only
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
