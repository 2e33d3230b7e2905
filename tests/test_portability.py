"""What holds on every system, read from the sources: other systems than Linux are not here to try.

Text is UTF-8 wherever it is read or written, names that only POSIX has are behind a check, and the modules
that commands load can be imported where these names are missing.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_mamba

PACKAGE = Path(nnunet_mamba.__path__[0])
CHECKOUT = PACKAGE.parent
SOURCES = sorted(
    file
    for folder in ("nnunet_mamba", "nnUNet_trainers", "scripts")
    for file in (CHECKOUT / folder).rglob("*.py")
)
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
POSIX_NAMES = {
    *("fork", "forkpty", "getpgid", "getuid", "killpg", "mkfifo", "pread", "pwrite", "register_at_fork"),
    *("sched_getaffinity", "setsid", "sysconf", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"),
}
GUARDED = {  # file -> names, each after a check of the system, or never reached without such a name before it
    "io/cpu.py": {"sched_getaffinity"},
    "io/locks.py": {"fcntl", "pread", "pwrite"},
    "nnunet/subprocesses.py": {"killpg", "SIGKILL"},
    "ops/numba_tasks.py": {"register_at_fork"},
    "study/sweep/gpus.py": {"getuid"},
}
WINDOWS = f"""
import os, signal, sys
sys.modules.update(dict.fromkeys({sorted(POSIX_MODULES)}))
for module in (os, signal):
    for name in {sorted(POSIX_NAMES)}:
        vars(module).pop(name, None)
"""


def opens_text(call: ast.Call) -> bool:
    """Return whether a call reads or writes text: a file's, or that of another process."""
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if is_method else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return is_method and len(call.args) < 2  # not io.atomic's
    if name == "open":
        modes = call.args[:1] if is_method else call.args[1:2]
        mode = modes[0] if modes else ast.Constant("r")
        return isinstance(mode, ast.Constant) and set(mode.value) <= set("rwax+t")
    return any(option.arg in ("text", "universal_newlines") for option in call.keywords)


def test_text_is_read_and_written_in_a_named_encoding():
    unnamed = []
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and opens_text(node)):
                continue
            if "encoding" not in {option.arg for option in node.keywords}:
                unnamed.append(f"{file.relative_to(CHECKOUT)}:{node.lineno}: {ast.unparse(node)}")
    assert not unnamed


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("file.read_text()", True),
        ("file.write_text(text)", True),
        ("file.open()", True),
        ("file.open('a')", True),
        ("open(name, 'w')", True),
        ("run(argv, text=True)", True),
        ("file.open('rb')", False),
        ("tarfile.open(archive)", False),
        ("os.open(file, os.O_RDONLY)", False),
    ],
)
def test_text_is_told_from_bytes(call, expected):
    assert opens_text(ast.parse(call, mode="eval").body) is expected


def test_what_only_posix_has_is_behind_a_check():
    found = {}
    for file in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)} & POSIX_NAMES
        names |= {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        } & POSIX_MODULES
        if names:
            found[file.relative_to(PACKAGE).as_posix()] = names
    assert found == GUARDED


def test_commands_load_without_what_only_posix_has():
    code = WINDOWS + (
        "from importlib import import_module\n"
        "from nnunet_mamba.cli import VERBS, _parsers\n"
        "for verb in VERBS: _parsers(verb)\n"
        "for name in ('io.locks', 'study.sweep.gpus', 'study.sweep.scheduler'):\n"
        "    import_module('nnunet_mamba.' + name)\n"
        "from nnunet_mamba.io.cpu import count_usable_cpus\n"
        "assert count_usable_cpus() >= 1\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
