"""A training step on fake tensors."""

from collections import Counter

import pytest
import torch
from torch import nn

from nnunet_mamba import create_network
from nnunet_mamba.memory.simulate import simulate
from nnunet_mamba.memory.workspace import kernel_key
from nnunet_mamba.ops import backends

SIZES = {
    "input_channels": 1,
    "num_classes": 2,
    "features_per_stage": [4, 8],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernel_sizes": [[3, 3, 3]] * 2,
}
JOB = {"batch": 2, "channels": 1, "classes": 2, "patch": (8, 8, 16)}
CONVOLUTION, SCAN, SCAN_BACKWARD = (
    "aten::convolution",
    "nnunet_mamba::selective_scan",
    "nnunet_mamba::selective_scan_backward",
)


@pytest.fixture
def calls(monkeypatch):
    """Numbers of calls of operators in all simulations, by name."""
    counted = Counter()

    def count(func, args):
        counted[func._schema.name] += 1
        return kernel_key(func, args)

    monkeypatch.setattr("nnunet_mamba.memory.simulate.kernel_key", count)
    return counted


def fake(name="mm_unet", **changes):
    with torch.device("meta"):
        return create_network(name, **{**SIZES, **changes}, deep_supervision=True)


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def test_one_convolution_by_hand():
    """2 x 8 x 8 x 16 = 2048 voxels: input 8 KiB, logits 16 KiB, targets (int64) 16 KiB; 56 weights."""
    voxels = 2 * 8 * 8 * 16
    with torch.device("meta"):
        network = OneConvolution()
    step = simulate(network, **JOB)
    weights = 2 * 56 * 4  # and their momentum; at the peak, in the loss, there is no gradient yet
    assert step.peak["weights"] == weights
    assert step.peak["batch"] == voxels * 4 + voxels * 8
    # the logits are gone, the loss holds its softmax and log-softmax of two classes at least
    assert step.peak["kept"] == 0
    assert step.peak["loss"] >= 2 * 2 * voxels * 4
    assert step.kernels == 2


def test_memory_grows_with_the_batch_and_weights_do_not():
    small, large = (simulate(fake(), **{**JOB, "batch": batch}) for batch in (2, 4))
    assert large.peak["weights"] == small.peak["weights"]
    assert large.peak["batch"] == 2 * small.peak["batch"]
    assert large.peak["kept"] == pytest.approx(2 * small.peak["kept"], rel=0.01)


@pytest.mark.parametrize("name", ["nnunet", "umamba_bot"])
def test_half_precision_keeps_less(name):
    full, half = (simulate(fake(name), **JOB, precision=precision) for precision in ("fp32", "fp16"))
    assert 0.45 * full.peak["kept"] < half.peak["kept"] < 0.9 * full.peak["kept"]


@pytest.mark.parametrize("name", ["nnunet", "mm_unet", "umamba_enc", "mamba_bi"])
def test_checkpointing_lowers_the_peak_and_runs_the_forward_pass_twice_at_most(calls, name):
    sizes = {
        "features_per_stage": [4, 8, 8],
        "strides": [[1] * 3, [2] * 3, [2] * 3],
        "kernel_sizes": [[3] * 3] * 3,
    }
    peaks, counts = [], []
    for stages in (0, "all"):
        calls.clear()
        step = simulate(fake(name, patch_size=[8, 8, 16], **sizes, checkpoint_stages=stages), **JOB)
        peaks.append(step.peak.total())
        counts.append(calls.copy())
    plain, recomputed = counts
    assert peaks[1] < 0.9 * peaks[0]
    assert recomputed[CONVOLUTION] > plain[CONVOLUTION]
    assert recomputed[SCAN] <= 2 * plain[SCAN]
    assert recomputed[SCAN_BACKWARD] == plain[SCAN_BACKWARD]


def test_workspace_adds_to_the_peak():
    factors = {"conv_forward": 1.0, "conv_transposed": 2.0, "conv_backward": 1.0}
    with_workspace, without = simulate(fake(), **JOB, workspace=factors), simulate(fake(), **JOB)
    assert without.peak["workspace"] == 0
    assert with_workspace.peak["workspace"] > 0
    assert with_workspace.peak.total() > without.peak.total()


@pytest.mark.parametrize("backend", ["numba", "torch", "triton", "mamba_ssm"])
def test_no_backend_has_to_run_here(monkeypatch, calls, backend):
    monkeypatch.setattr(
        backends, "backend_status", lambda name: pytest.fail(f"asked whether {name} runs here")
    )
    simulate(fake(), **JOB, backend=backend)
    assert calls[SCAN] > 0
    assert calls[SCAN_BACKWARD] > 0


@pytest.mark.parametrize(("network", "n_stages"), [("vm_unet", 4), ("swin_umamba", 5)])
def test_networks_of_fixed_topology_in_2d(calls, network, n_stages):
    with torch.device("meta"):
        built = create_network(
            network,
            input_channels=1,
            num_classes=2,
            features_per_stage=[4, 8, 16, 32, 64][-n_stages:],
            depths=[1] * 4,
            deep_supervision=True,
        )
    step = simulate(built, **{**JOB, "patch": (64, 64)})
    assert step.peak["kept"] > 0
    assert calls[SCAN] > 0
