"""scripts/quickstart.sh: what it installs, and that it says so before it downloads gigabytes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "quickstart.sh"
PYTHON = """#!/bin/sh
echo "python $*"
case "$*" in *--editable*) printf '#!/bin/sh\\necho "nnunet-mamba $*"\\n' > "$(dirname "$0")/nnunet-mamba"
  chmod +x "$(dirname "$0")/nnunet-mamba";; esac
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script with a python that prints its arguments, to lines."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)

    def run(*options: str, **variables: str) -> list[str]:
        environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path), **variables}
        done = subprocess.run(
            ["bash", str(SCRIPT), *options], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    return run


def test_it_says_what_it_downloads_and_lets_pip_show_its_progress(run):
    said, _, installed, started = run("--cases", "3")
    assert "about 3.4 GB to download" in said and "TORCH=cpu" in said
    assert installed == f"python -m pip install --editable {SCRIPT.parents[1]}"
    assert started == "nnunet-mamba quickstart --cases 3"
    assert run() == ["nnunet-mamba quickstart"]  # it is installed now


def test_without_a_gpu_torch_and_torchvision_come_first_and_from_one_index(run):
    said, torch, _, installed, _ = run(TORCH="cpu")
    assert "without CUDA" in said
    assert torch == (
        "python -m pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
    )
    assert installed == f"python -m pip install --editable {SCRIPT.parents[1]}"


def test_on_windows_programs_are_in_the_folder_scripts(run, tmp_path):
    (tmp_path / "bin").rename(tmp_path / "Scripts")
    assert run()[-1] == "nnunet-mamba quickstart"


def test_another_build_of_torch_is_refused(run):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run(TORCH="CPU")
    assert refused.value.returncode == 2 and "TORCH is 'CPU'; expected cpu" in refused.value.stderr
