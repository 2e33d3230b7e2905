"""The wheel by itself, away from the checkout: what a user gets."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import nnunet_mamba

CHECKOUT = Path(__file__).parents[1]
TRAINER = "nnUNetTrainerMMUNet_demo"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that nothing is left in the checkout."""
    sources = tmp_path_factory.mktemp("sources") / "checkout"
    shutil.copytree(
        CHECKOUT, sources, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    )
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(sources)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of a clean environment: this wheel, and our dependencies."""
    root = tmp_path_factory.mktemp("clean")
    venv.create(root / "venv", with_pip=False)
    python = root / "venv/bin/python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(root / "venv")})
    # a path file makes our dependencies importable without the editable installation beside them
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet", "PYTHON"))}

    def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        call = [str(root / "venv/bin" / command[0]), *command[1:]]
        return subprocess.run(call, cwd=root, env=environment | variables, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_the_wheel_holds_the_folders_that_stand_beside_the_library(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "nnunet_mamba/nnUNet_trainers/nnunet_mamba_trainers.py" in names
    assert "nnunet_mamba/plans_templates/cpu.json" in names
    for file in (
        "memory/profiles/cpu.json",
        "study/datasets/published_splits.json",
        "study/report/published.json",
        "study/report/templates/page.html.jinja",
        "study/report/templates/page.css",
        "study/sweep/Snakefile",
        "study/sweep/study.schema.json",
        "study/sweep/profiles/slurm/config.yaml",
    ):
        assert f"nnunet_mamba/{file}" in names
    assert "nnunet_mamba/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "nnunet_mamba" in tops, "the wheel owns one top-level name"
    assert not [name for name in names if "tests" in name or name.endswith(".pth")]
    assert wheel.stat().st_size < 1_000_000


@pytest.mark.slow
def test_an_index_takes_the_wheel_and_its_version_is_the_packages(wheel):
    assert wheel.name == f"nnunet_mamba-{nnunet_mamba.__version__}-py3-none-any.whl"
    check = [sys.executable, "-m", "twine", "check", "--strict", str(wheel)]
    assert subprocess.run(check, capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_installed_wheel_is_complete_and_stock_nnunet_finds_its_trainers(installed):
    where = installed("python", "-c", "import nnunet_mamba; print(nnunet_mamba.__file__)")
    assert str(CHECKOUT) not in where.stdout and "clean" in where.stdout, where.stderr
    path = installed("nnunet-mamba", "trainers-path")
    assert path.returncode == 0, path.stderr
    find = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find; "
        f"print(find('{TRAINER}'))"
    )
    found = installed("python", "-c", find, nnUNet_extTrainer=path.stdout.strip())
    assert TRAINER in found.stdout, found.stderr
    networks = installed("nnunet-mamba", "networks")
    assert "umamba_bot_nossm" in networks.stdout, networks.stderr
