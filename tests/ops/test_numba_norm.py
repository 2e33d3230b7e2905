"""The instance norm beside torch's in float64: any shape, layout and number of threads, and NaN."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_mamba.ops import numba_norm
from nnunet_mamba.ops.numba_norm import LAYOUTS, instance_norm, to_channels_last

SHAPES = [(1, 1, 5, 7), (3, 5, 4, 9), (2, 33, 3, 8, 5), (1, 70, 2, 1, 1), (5, 1, 3, 3, 3), (1, 4, 17, 16, 15)]
EPSILON = 2**-23


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def norm_of_float64(x, weight=None, bias=None):
    weight, bias = (None if values is None else values.double() for values in (weight, bias))
    return F.instance_norm(x.double(), weight=weight, bias=bias)


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """Tiny tensors in several threads, as large ones are."""
    monkeypatch.setattr(numba_norm, "SMALLEST_PART", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_those_of_float64(shape, affine, threads):
    x = 3 * numbers(*shape) + 2
    weight, bias = (numbers(shape[1], seed=seed) if affine else None for seed in (1, 2))
    exact = norm_of_float64(x, weight, bias)
    found = instance_norm(x, weight, bias, 1e-5)
    deviation = x.double().var(tuple(range(2, x.ndim)), correction=0, keepdim=True).add(1e-5).sqrt()
    largest = (x.abs() / deviation).max() * (weight.abs().max() if affine else 1) + exact.abs().max()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=4 * EPSILON * float(largest))
    assert found.is_contiguous(memory_format=LAYOUTS[x.ndim])


def test_a_large_mean_costs_no_more_digits_than_the_input_has_lost(threads):
    """The square of the mean is 1e8 times the variance, beyond what float32 can subtract."""
    x = 1e4 + numbers(2, 9, 8, 8, 8)
    exact = norm_of_float64(x)
    assert float((instance_norm(x, None, None, 1e-5) - exact).abs().max()) < 4 * EPSILON * 1e4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_layout_of_the_input_is_of_no_account(shape):
    x = numbers(*shape)
    expected = instance_norm(x, None, None, 1e-5)
    wide = numbers(shape[0], 2 * shape[1] + 1, *(2 * size for size in shape[2:]))
    gaps = to_channels_last(wide)[:, 1 : shape[1] + 1, ..., : shape[-1]]
    gaps = gaps[(..., *(slice(size) for size in shape[2:]))].copy_(x)
    for same in (to_channels_last(x), x.transpose(-1, -2).contiguous().transpose(-1, -2), gaps):
        before = same.clone()
        assert torch.equal(instance_norm(same, None, None, 1e-5), expected)
        assert torch.equal(same, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_channel_and_item(bad, threads):
    x = numbers(2, 3, 4, 5, 6)
    x[1, 2, 3, 4, 5] = bad
    found = instance_norm(x, None, None, 1e-5)
    assert found[1, 2].isnan().all()
    assert found.isnan().sum() == found[1, 2].numel()


def test_a_constant_channel_becomes_its_bias(threads):
    x = torch.full((1, 3, 4, 4), 7.25)
    bias = torch.tensor([1.0, -2.0, 0.0])
    assert torch.equal(instance_norm(x, None, bias, 1e-5), bias[None, :, None, None].expand_as(x))


def test_channels_are_last_even_if_there_is_one():
    x = to_channels_last(numbers(2, 1, 4, 5, 6))
    assert x.stride(1) == 1 and x.stride(-1) == 1
    assert to_channels_last(x) is x
