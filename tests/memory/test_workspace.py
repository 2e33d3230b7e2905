"""Memory of operators that no tensor shows."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.memory.live_memory import LiveMemory
from nnunet_mamba.memory.workspace import kernel_key, workspace_of
from nnunet_mamba.ops import multi_directional_linear_attention, selective_scan
from nnunet_mamba.ops.backends import force_backend

FACTORS = {"conv_forward": 1.0, "conv_transposed": 2.0, "conv_backward": 1.0}


def workspaces(call):
    """Name of each operator with workspace -> its bytes, and the kernels met."""
    found, kernels = {}, set()

    def observe(func, args, result):
        size = workspace_of(func, args, result, FACTORS)
        kernels.add(kernel_key(func, args))
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
    found, kernels = workspaces(lambda: conv(x).sum().backward())
    assert found == {"convolution": 1024 + weight, "convolution_backward": 1024 + 512 + weight}
    assert len(kernels) == 2


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_depthwise_convolution_copies_nothing_where_channels_are_last(ndim):
    """As in the layer of size-matched twins; of another layout, and of dense ones, it copies."""
    grid = (5, 6, 7)[:ndim]
    tokens = torch.ones(2, math.prod(grid), 8, requires_grad=True)
    layer = MatchedConv(8, ndim, replaced=torch.nn.Linear(10, 20))
    assert workspaces(lambda: layer(tokens, grid).sum().backward())[0] == {}
    hidden = layer.conv.in_channels
    channels_first = torch.ones(2, hidden, *grid, requires_grad=True)
    assert workspaces(lambda: layer.conv(channels_first).sum().backward())[0] != {}
    dense = (torch.nn.Conv2d if ndim == 2 else torch.nn.Conv3d)(8, 8, 3, padding=1)
    last = tokens.transpose(1, 2).unflatten(2, grid)
    assert workspaces(lambda: dense(last).sum().backward())[0] != {}


def test_the_input_of_the_first_convolution_has_no_gradient_to_copy():
    conv = torch.nn.Conv2d(2, 4, 3, padding=1)
    found, _ = workspaces(lambda: conv(torch.ones(1, 2, 8, 8)).sum().backward())
    assert found["convolution_backward"] == 1024 + 4 * 2 * 9 * 4


def test_pointwise_and_transposed_convolutions():
    x = torch.ones(1, 2, 8, 8)
    assert workspaces(lambda: torch.nn.Conv2d(2, 4, 1)(x))[0] == {}
    assert workspaces(lambda: torch.nn.ConvTranspose2d(2, 2, 2, 2)(x))[0] == {"convolution": 2 * 2 * 256 * 4}


def test_the_same_convolution_twice_is_one_kernel():
    conv, x = torch.nn.Conv2d(2, 2, 3), torch.ones(1, 2, 8, 8)
    assert len(workspaces(lambda: (conv(x), conv(x)))[1]) == 1
    assert len(workspaces(lambda: (conv(x), conv(x[..., 1:])))[1]) == 2


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_scans_need_workspace_in_backward(backend):
    u = torch.ones(1, 8, 64, requires_grad=True)
    A, B = -torch.ones(8, 4), torch.ones(1, 4, 64)
    found, _ = workspaces(lambda: selective_scan(u, u, A, B, B, backend=backend).square().sum().backward())
    assert found["selective_scan_backward"] >= 2 * 64 * 4 * 4  # dB and dC


def triton_workspaces(length, n, channels=64, dtype=torch.float32):
    with FakeTensorMode(), force_backend("triton"):
        u = torch.empty(1, length, channels, dtype=dtype).transpose(1, 2).requires_grad_()
        A, B = torch.empty(channels, n), torch.empty(1, length, n, dtype=dtype).transpose(1, 2)

        def step():
            y = selective_scan(u, u, A, B, B)
            y.backward(torch.empty_like(y))

        found, _ = workspaces(step)
    return found.get("selective_scan", 0), found["selective_scan_backward"]


def test_tritons_scan_by_hand():
    """64 tokens, 64 channels, 16 states: two blocks of channels, each one program, which is all that adds to
    dA, dD and dbias. Each leaves its own dB and dC, and goes back through 16 states per chunk."""
    forward, backward = triton_workspaces(64, 16)
    assert forward == 0
    assert backward == 4 * (2 * 2 * 64 * 16 + 2 * 32 * 16 * 16)


def test_tritons_long_scans_are_cut_into_segments_that_hand_states_over():
    forward, backward = triton_workspaces(1024, 16)  # 16 segments of 2 blocks
    assert forward == 4 * 32 * 32 * (16 + 1)
    per_program = 32 * (16 * 16 + 16 + 2)
    assert backward == 4 * (2 * 2 * 1024 * 16 + 32 * per_program) + forward


def test_tritons_scan_of_many_states_adds_up_results_of_its_pieces():
    """40 states are 3 pieces of 16, which run together: y, du and ddelta of each."""
    forward, backward = triton_workspaces(64, 40)
    assert forward == 4 * 3 * 64 * 64
    kept_states = 3 * 2 * 32 * 16 * 16
    assert backward == 4 * (2 * 2 * 64 * 40 + 3 * 2 * 64 * 64 + kept_states)


def test_tritons_sums_are_in_float32_beside_results_in_half():
    half, single = (triton_workspaces(64, 40, dtype=dtype) for dtype in (torch.float16, torch.float32))
    assert half[0] - single[0] == 4 * 64 * 64
    assert half[1] - single[1] == 4 * 2 * (64 * 64 + 64 * 40)  # du and ddelta, dB and dC


def attention_workspaces(backend, directions, length=64, gradients=True):
    """Of 2 heads of 8 values and 4 keys: forward, backward."""
    with FakeTensorMode(), force_backend(backend):
        values = torch.empty(1, 1, length, 2, 8, requires_grad=gradients)
        decay, keys = torch.empty(directions, 1, length, 2), torch.empty(directions, 1, length, 1, 4)

        def step():
            y = multi_directional_linear_attention(values, decay, keys, keys, reverse=[False] * directions)
            if gradients:
                y.backward(torch.empty_like(y))

        found, _ = workspaces(step)
    return found.get("linear_attention", 0), found.get("linear_attention_backward", 0)


def test_a_second_direction_of_linear_attention_is_added_from_a_tensor_of_its_own():
    one, two = (attention_workspaces("numba", directions) for directions in (1, 2))
    assert one == (0, 0)
    assert two == (4 * 64 * 16, 4 * 64 * 16)


def test_tritons_linear_attention_holds_states_and_in_backward_their_gradients():
    """Of 3 chunks of 64 tokens, 4 x 16; those of forward are a result if there are gradients to come."""
    states = 4 * 3 * 4 * 16
    assert attention_workspaces("triton", 1, length=150) == (0, states)
    assert attention_workspaces("triton", 2, length=150) == (0, 2 * states)
    assert attention_workspaces("triton", 1, length=150, gradients=False) == (states, 0)


def test_torchs_linear_attention_works_in_blocks_of_bounded_size():
    short, long, longer = (attention_workspaces("torch", 1, length=n) for n in (64, 2**16, 2**17))
    assert short == (4 * 6 * 64 * 2 * 64, 4 * 12 * 64 * 2 * 64)  # matrices of 64 x 64, 6 and 12 of each head
    assert short < long == longer
