"""The benchmark of networks, on sizes that take seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba import create_network

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "networks.py"
TINY = [sys.executable, SCRIPT, "--plan", "tiny", "--steps", "1"]


@pytest.mark.timeout(180)
def test_a_table_has_the_control_before_and_after(tmp_path):
    name = "mm_unet:mixer_output=norm"
    subprocess.run([*TINY, name, "--record", tmp_path / "networks"], check=True, stdout=subprocess.DEVNULL)
    record = json.loads((tmp_path / "networks.json").read_text())
    control, network, again = record["rows"]
    assert [row["network"] for row in record["rows"]] == ["nnunet", name, "nnunet"]
    assert control["ratios"]["step_ms"] + again["ratios"]["step_ms"] == pytest.approx(2)
    sizes = {key: value for key, value in record["plan"]["3d"].items() if key != "batch"}
    expected = create_network("mm_unet", **sizes, mixer_output="norm")
    assert network["parameters"] == sum(p.numel() for p in expected.parameters())
    assert min(network["forward_ms"], network["step_ms"], network["peak_mib"]) > 0
    assert (tmp_path / "networks.md").read_text().count("| `nnunet` | 3 |") == 2


def test_a_network_that_cannot_be_measured_says_why():
    done = subprocess.run([*TINY, "--child", "vm_unet", "3"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "works in 2D" in done.stderr.splitlines()[-1]
