""".github/workflows: the README's test command, with the oldest and the newest Python, on three systems."""

import os
import re
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
TESTS = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
(JOB,) = TESTS["jobs"].values()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_and_may_only_read(file):
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and "concurrency" in workflow
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    assert all(step.get("shell") == "bash" for step in steps if "run" in step)


def test_the_last_step_is_the_readmes_test_command():
    command = JOB["steps"][-1]["run"]
    assert f"\n{command} " in (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert os.name == "nt" or (CHECKOUT / command).stat().st_mode & 0o111


def test_three_systems_and_the_oldest_and_newest_python():
    systems = {system.split("-")[0] for system in JOB["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, above = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text).groups())
    assert JOB["strategy"]["matrix"]["python"] == [f"3.{oldest}", f"3.{above - 1}"]
