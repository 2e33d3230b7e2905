"""The page that says how to add a mixer is true: its code, put where it says, is a word of networks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_mamba

PACKAGE = Path(nnunet_mamba.__path__[0])
PAGE = PACKAGE.parent / "docs" / "add-a-mixer.md"
RUN = """
import nnunet_mamba, torch
plan = {"features_per_stage": [4, 8], "strides": [1, 2], "kernel_sizes": [3, 3], "patch_size": [8, 8, 8]}
network = nnunet_mamba.create_network("mm_unet", input_channels=1, num_classes=3, mixer="mean", **plan)
assert [key for key in network.state_dict() if key.endswith("mean.in_proj.weight")]
network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
assert all(weight.grad.isfinite().all() for weight in network.parameters())
print(nnunet_mamba.__file__)
"""


@pytest.mark.skipif(not PAGE.exists(), reason="the page is not installed with the package")
def test_the_pages_file_and_row_add_a_mixer(tmp_path):
    layer, row = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    copy = tmp_path / "nnunet_mamba"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "blocks" / "mean.py").write_text(layer)
    mixers = copy / "blocks" / "mixers.py"
    text = mixers.read_text().replace("LAYERS = {\n", f"LAYERS = {{\n{row}", 1)
    imported = "from nnunet_mamba.blocks.mlstm import"
    mixers.write_text(text.replace(imported, f"from nnunet_mamba.blocks.mean import Mean\n{imported}", 1))
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.split()[-1]).parent == copy
