"""What is measured of MM-UNet's branches, on networks small enough for seconds."""

import runpy
from pathlib import Path

import pytest
import torch

from nnunet_mamba import create_network

SCRIPT = runpy.run_path(
    str(Path(__file__).parents[2] / "scripts" / "mm_unet" / "branch.py"), run_name="branch"
)
SIZES = {"features_per_stage": [4, 8, 16, 16], "strides": [1, 2, 2, 2], "kernel_sizes": [[3, 3]] * 4}


def measured(name, **words):
    torch.manual_seed(0)
    network = create_network(name, input_channels=1, num_classes=2, **SIZES, **words)
    x = torch.randn(2, 1, 32, 32)
    features = SCRIPT["measure_features"](network, x)
    network(x).square().mean().backward()
    gradients = SCRIPT["measure_gradients"](network)
    return network, [one | other for one, other in zip(features, gradients, strict=True)]


def test_a_branch_is_measured_with_and_without_the_residual_of_its_mixer():
    """The same M in both; what the branch adds is M alone, or the convolutions' features too."""
    (_, residual), (_, bare) = (measured("mm_unet", mixer_output=word) for word in ("residual", "bare"))
    assert len(residual) == 3
    assert residual[0]["share"] == pytest.approx(bare[0]["share"])
    assert residual[0]["inside"] > 0.8 > 0.1 > bare[0]["inside"]
    assert residual[0]["scale"] > 5 * bare[0]["scale"]
    assert 1e-3 < residual[0]["delta"] < 1e-1  # Mamba's range of initial step sizes


def test_a_twin_has_no_mixer_to_measure_and_gradients_are_those_of_its_weights():
    network, stages = measured("mm_unet_nossm")
    assert set(stages[0]) == {"scale", "inside", "outside", "convs_gradient"}
    block = next(iter(SCRIPT["residual_blocks"](network).values()))
    gradients = torch.cat([p.grad.flatten() for p in block.convs.parameters()])
    assert stages[0]["convs_gradient"] == pytest.approx(gradients.norm().item() / len(gradients) ** 0.5)


def test_a_record_becomes_a_summary_and_a_figure(tmp_path):
    record = [{"step": step, "loss": 1.0 - step, "stages": measured("mm_unet")[1]} for step in (0, 5)]
    lines = SCRIPT["summary"]("residual", record).splitlines()
    assert lines[0] == "residual: loss 1.000 -> -4.000 at step 5"
    assert len(lines) == 1 + len(SCRIPT["QUANTITIES"])
    SCRIPT["draw"](tmp_path / "branch.png", {"residual": record, "without SSM": record})
    assert (tmp_path / "branch.png").read_bytes().startswith(b"\x89PNG")
