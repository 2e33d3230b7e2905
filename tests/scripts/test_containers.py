"""scripts/containers and docs/containers.md: what can be known of images that are not built here."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_mamba.cli import VERBS
from nnunet_mamba.cli.doctor import FOLDERS
from nnunet_mamba.study.sweep import scheduler

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "scripts" / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
RECIPE = (FOLDER / "nnunet_mamba.def").read_text(encoding="utf-8")
PAGE = (CHECKOUT / "docs" / "containers.md").read_text(encoding="utf-8")
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", DOCKERFILE, re.MULTILINE)
STEPS = ["system", "torch", "requirements", "package"]
STUB = f"""#!/bin/sh
[ "$1" = - ] && exec {sys.executable} "$@"
echo "python $*"
case "$*" in *--requirement*) for last; do :; done; cat "$last";; esac
"""


def arguments_of(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_both_images_start_from_one_pinned_python():
    (base,) = arguments_of("FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base), "a full version, not a moving tag"
    assert f"From: {base}\n" in RECIPE


def test_the_image_runs_as_a_user_and_its_doctor_is_the_last_step():
    names = [name for name, _ in INSTRUCTIONS]
    assert arguments_of("USER") == ["1000"] and "--uid 1000" in DOCKERFILE
    assert names.index("USER") < names.index("CMD")
    assert INSTRUCTIONS[-2:] == [("RUN", "nnunet-mamba doctor"), ("CMD", '["nnunet-mamba", "doctor"]')]


def test_nnunets_folders_are_volumes_that_exist():
    (volumes,) = arguments_of("VOLUME")
    assert re.findall(r'"/data/(\w+)"', volumes) == list(FOLDERS)
    for variable in FOLDERS:
        assert f"{variable}=/data/{variable}" in DOCKERFILE and f'"${variable}"' in DOCKERFILE


@pytest.mark.parametrize("text", [DOCKERFILE, RECIPE], ids=["Dockerfile", "Apptainer"])
def test_steps_come_in_the_order_of_how_often_they_change(text):
    assert re.findall(r"/opt/install\.sh ([a-z]+)", text) == STEPS


def test_both_recipes_copy_the_same_files_and_they_exist():
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored and all((CHECKOUT / path).exists() for path in sent)
    copied = {path for paths in arguments_of("COPY") for path in paths.split()[:-1]}
    assert "." in copied and copied - {"."} <= sent
    assert set(re.findall(r"^    (\S+) /opt/\S+$", RECIPE, re.MULTILINE)) == sent


def test_the_copied_sources_and_their_bytecode_do_not_stay_in_the_image():
    for text in (DOCKERFILE, RECIPE):
        _, after = text.split("/opt/install.sh package /opt/nnunet_mamba")
        assert "rm -r /opt/nnunet_mamba" in after


def test_commands_of_the_recipes_and_of_the_page_are_verbs():
    named = re.findall(r"nnunet-mamba ([a-z][a-z-]*)", DOCKERFILE + RECIPE + PAGE)
    assert named and set(named) <= set(VERBS)


def test_the_page_finds_the_commands_in_a_script_of_slurm_jobs(monkeypatch):
    monkeypatch.setattr(scheduler, "find_program", lambda name: Path("/usr/local/bin", name))
    command = scheduler._run_command(SimpleNamespace(out=Path("/data/out")), SimpleNamespace(name="train-0"))
    pattern, image = re.search(r'sed -i "s#(.*)#(exec apptainer .*)#" jobs\.sh', PAGE).groups()
    assert re.sub(pattern, image, command) == f"{image} sweep run /data/out train-0"


@pytest.fixture
def install(tmp_path):
    """Return a function that runs install.sh with a python that prints what it is asked to do."""
    (tmp_path / "python").write_text(STUB, encoding="utf-8")
    (tmp_path / "python").chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        command = ["bash", str(FOLDER / "install.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")

    return run


def test_torch_for_cpus_comes_from_its_index(install):
    assert install("torch", "cpu").stdout.endswith("--index-url https://download.pytorch.org/whl/cpu\n")
    assert install("torch", "cuda").stdout == "python -m pip install torch torchvision\n"


@pytest.mark.parametrize("arguments", [("torch", "rocm"), ("torch",), ("everything",), ()])
def test_unknown_steps_and_builds_are_refused(install, arguments):
    done = install(*arguments)
    assert done.returncode == 2 and "expected" in done.stderr and not done.stdout


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib, which the image's Python has")
def test_requirements_are_those_of_the_package_and_of_sweeps(install):
    lines = install("requirements", str(CHECKOUT / "pyproject.toml")).stdout.splitlines()
    assert "nnunetv2>=2.8.0,<2.9" in lines and any(line.startswith("snakemake>=9") for line in lines)
    assert not any(line.startswith("pytest") for line in lines)
