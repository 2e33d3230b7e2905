"""The golden files: outputs and gradients of the papers' own code, and the rule that gives its weights.

Small ones are in tests/golden, the others in `../shared/golden` where that is there.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDERS = [Path(__file__).parent / "golden", Path(__file__).parents[2] / "shared" / "golden"]


def golden_path(name: str) -> Path:
    """Where a file is; the test is skipped if it is nowhere."""
    found = [folder / name for folder in FOLDERS if (folder / name).is_file()]
    if not found:
        pytest.skip(f"{name} is not in this repository, nor in ../shared/golden")
    return found[0]


def golden_arrays(name: str):
    return np.load(golden_path(f"{name}.npz"))


def fill(name: str, shape: list[int], strong: bool = False) -> torch.Tensor:
    """The value of a parameter by its name; `strong` is U-Mamba's files' rule for larger weights."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("A_log", "A_b_log", "A_s_log", "A_logs"):
        return torch.arange(1, shape[1] + 1, dtype=torch.float64).log().float().repeat(shape[0], 1)
    if leaf in ("D", "D_b", "D_s", "Ds") or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.05 * noise
    if strong and leaf == "weight":
        return noise * math.sqrt(2 / (noise.numel() / shape[0]))
    return 0.05 * noise


def fill_vss(name: str, shape: list[int], strong: bool) -> torch.Tensor:
    """The same for the files of visual state space networks, whose larger weights are others."""
    larger = strong and name.endswith(("x_proj_weight", "dt_projs_weight"))
    return fill(name, shape) * (10 if larger else 1)
