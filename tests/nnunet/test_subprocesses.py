import os
import sys
import time
from types import SimpleNamespace

import pytest

from nnunet_mamba.nnunet import subprocesses
from nnunet_mamba.nnunet.subprocesses import ChildFailedError, describe_exit_code, find_error_line, run_child


def python(code: str, log_file, show=lambda line: None, **environment: str) -> None:
    run_child([sys.executable, "-c", code], environment=environment, log_file=log_file, show=show)


def test_lines_are_shown_while_the_child_is_at_work(tmp_path):
    seen = []
    code = "import time; print('first'); time.sleep(1.5); print('second')"
    python(code, tmp_path / "log", lambda line: seen.append((line, time.monotonic())))
    assert [line for line, _ in seen] == ["first", "second"]
    assert seen[1][1] - seen[0][1] > 1


def test_progress_bars_come_in_steps_and_stderr_too(tmp_path):
    seen = []
    code = "import sys; sys.stderr.write('10%\\r50%\\r100%\\n'); sys.stderr.flush(); print('ä')"
    python(code, tmp_path / "log", seen.append, PYTHONIOENCODING="utf-8")
    assert seen == ["10%", "50%", "100%", "ä"]
    assert (tmp_path / "log").read_bytes() == b"10%\r50%\r100%\n\xc3\xa4\n"


def test_a_log_keeps_earlier_attempts(tmp_path):
    for word in ("once", "twice"):
        python(f"print({word!r})", tmp_path / "log")
    assert (tmp_path / "log").read_text() == "once\ntwice\n"


def test_the_environment_is_added_to_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTER", "o")
    seen = []
    python(
        "import os; print(os.environ['OUTER'], os.environ['INNER'])", tmp_path / "log", seen.append, INNER="i"
    )
    assert seen == ["o i"]


def test_failure_names_program_code_reason_and_log(tmp_path):
    with pytest.raises(ChildFailedError) as error:
        python("print('before'); raise KeyError('spleen')", tmp_path / "log")
    text = str(error.value)
    assert text.splitlines()[0].endswith("failed with exit code 1: KeyError: 'spleen'")
    assert "    before" in text
    assert text.endswith(f"The whole log: {tmp_path / 'log'}")


def test_a_killed_child_is_told_by_its_signal(tmp_path):
    with pytest.raises(ChildFailedError, match=r"signal SIGKILL \(often: out of memory\)"):
        python("import os; os.kill(os.getpid(), 9)", tmp_path / "log")
    assert describe_exit_code(-15) == "signal SIGTERM"


def test_an_interruption_here_ends_the_child_and_its_own_children(tmp_path):
    started = []

    def interrupt(line: str) -> None:
        started.extend(map(int, line.split()))
        raise KeyboardInterrupt

    code = (
        "import os, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(os.getpid(), worker.pid); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        python(code, tmp_path / "log", interrupt)
    assert len(started) == 2
    assert not any(alive(pid) for pid in started)


def alive(pid: int) -> bool:
    """Whether a process still works (a dead one may wait to be collected)."""
    for _ in range(30):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return False
        except OSError:
            return False
        time.sleep(0.1)
    return True


def test_the_reason_is_the_exception_and_not_the_line_after_it():
    tail = ["Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory", "Exit."]
    assert find_error_line(tail) == "torch.OutOfMemoryError: CUDA out of memory"
    assert find_error_line(["only this"]) == "only this"
    assert find_error_line([]) == "no output"


def test_without_process_groups_the_child_and_its_descendants_are_ended_by_taskkill(monkeypatch):
    ran, waited = [], []
    monkeypatch.delattr(os, "killpg")
    monkeypatch.setattr(subprocesses.subprocess, "run", lambda argv, **options: ran.append(argv))
    subprocesses.stop(SimpleNamespace(pid=7, wait=lambda: waited.append(True)))
    assert ran == [["taskkill", "/F", "/T", "/PID", "7"]] and waited


def test_a_python_child_writes_utf8_whatever_its_locale(tmp_path):
    seen = []
    python(
        "print('\\u2212 \\xe4')",
        tmp_path / "log",
        seen.append,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert seen == ["− ä"]
