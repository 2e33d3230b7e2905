"""Memory of operators that no tensor shows."""

import pytest
import torch

from nnunet_mamba.estimate.live_memory import LiveMemory
from nnunet_mamba.estimate.scratch import kernel_of, scratch_of
from nnunet_mamba.ops import selective_scan

FACTORS = {"conv_forward": 1.0, "conv_transposed": 2.0, "conv_backward": 1.0}


def scratches(call):
    """Name of each operator with scratch -> its bytes, and the kernels met."""
    found, kernels = {}, set()

    def observe(func, args, result, born):
        size = scratch_of(func, args, result, FACTORS)
        kernels.add(kernel_of(func, args))
        if size:
            found[func._schema.name.split("::")[1]] = size
        return size

    with LiveMemory(observe):
        call()
    return found, kernels - {None}


def test_a_convolution_copies_the_larger_of_its_ends_and_both_in_backward():
    x = torch.ones(1, 2, 8, 8, requires_grad=True)
    conv = torch.nn.Conv2d(2, 4, 3, padding=1)
    weight = 4 * 2 * 9 * 4
    found, kernels = scratches(lambda: conv(x).sum().backward())
    assert found == {"convolution": 1024 + weight, "convolution_backward": 1024 + 512 + weight}
    assert len(kernels) == 2


def test_the_input_of_the_first_convolution_has_no_gradient_to_copy():
    conv = torch.nn.Conv2d(2, 4, 3, padding=1)
    found, _ = scratches(lambda: conv(torch.ones(1, 2, 8, 8)).sum().backward())
    assert found["convolution_backward"] == 1024 + 4 * 2 * 9 * 4


def test_pointwise_and_transposed_convolutions():
    x = torch.ones(1, 2, 8, 8)
    assert scratches(lambda: torch.nn.Conv2d(2, 4, 1)(x))[0] == {}
    assert scratches(lambda: torch.nn.ConvTranspose2d(2, 2, 2, 2)(x))[0] == {"convolution": 2 * 2 * 256 * 4}


def test_the_same_convolution_twice_is_one_kernel():
    conv, x = torch.nn.Conv2d(2, 2, 3), torch.ones(1, 2, 8, 8)
    assert len(scratches(lambda: (conv(x), conv(x)))[1]) == 1
    assert len(scratches(lambda: (conv(x), conv(x[..., 1:])))[1]) == 2


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_scans_need_scratch_in_backward(backend):
    u = torch.ones(1, 8, 64, requires_grad=True)
    A, B = -torch.ones(8, 4), torch.ones(1, 4, 64)
    found, _ = scratches(lambda: selective_scan(u, u, A, B, B, backend=backend).square().sum().backward())
    assert found["selective_scan_backward"] >= 2 * 64 * 4 * 4  # dB and dC
