"""Under --strict-skips every kind of skip fails that is not on the list."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "test_runtime.py": """
import unittest
import pytest

def test_allowed():
    pytest.skip("no Chromium here")

@pytest.mark.skipif(True, reason="needs a CUDA device, or TRITON_INTERPRET=1")
def test_allowed_mark():
    raise AssertionError

def test_other():
    pytest.skip("the file is not here; no Chromium here")

@pytest.mark.skip(reason="later")
def test_other_mark():
    pass

@pytest.fixture
def missing():
    return pytest.importorskip("no_such_module")

def test_in_a_fixture(missing):
    pass

class TestCase(unittest.TestCase):
    def test_unittest(self):
        self.skipTest("later")

@pytest.mark.parametrize("nothing", [])
def test_of_no_case(nothing):
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError

def test_passes():
    pass
""",
    "test_module.py": 'import pytest\npytest.importorskip("no_such_module")\n',
    "test_allowed_module.py": 'import pytest\npytest.skip("no Chromium here", allow_module_level=True)\n',
}


def run(folder: Path, *options: str) -> tuple[int, set[str], str]:
    """The exit code of pytest on FILES, the tests and modules that failed, and what it printed."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "strict_skips", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, *options, "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) .*?(\w+)(?:\.py|\[\S*)?(?: - .*)?$", done.stdout, re.M)
    return done.returncode, set(failed), done.stdout


def test_without_the_option_skips_are_skips(tmp_path):
    assert run(tmp_path)[:2] == (0, set())


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["one process", "another process"])
def test_each_kind_of_skip_fails_unless_it_is_on_the_list(tmp_path, options):
    if options:
        pytest.importorskip("xdist")
    code, failed, printed = run(tmp_path, "--strict-skips", *options)
    assert code == 1
    skips = {"test_other", "test_other_mark", "test_in_a_fixture", "test_unittest", "test_of_no_case"}
    assert failed == {"test_module", *skips}
    assert "Skipped: the file is not here; no Chromium here\n--strict-skips allows only" in printed
