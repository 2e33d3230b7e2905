"""Winograd's convolution beside torch's in float64: any grid, channels, batch and number of threads."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_mamba.ops import numba_winograd
from nnunet_mamba.ops.numba_norm import to_channels_last
from nnunet_mamba.ops.numba_winograd import convolve, takes, transform_weight

CASES = [  # items, inputs, outputs, grid: odd sizes, several blocks of tiles, several chunks of channels
    (1, 16, 16, (1, 1, 1)),
    (2, 16, 32, (2, 3, 4)),
    (3, 48, 16, (5, 1, 7)),
    (1, 32, 80, (9, 6, 11)),
    (2, 64, 48, (3, 12, 5)),
]


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("items, inputs, outputs, grid", CASES)
def test_values_are_those_of_float64(items, inputs, outputs, grid, has_bias, threads):
    x, weight = numbers(items, inputs, *grid), numbers(outputs, inputs, 3, 3, 3, seed=1)
    bias = numbers(outputs, seed=2) if has_bias else None
    exact = F.conv3d(x.double(), weight.double(), bias.double() if has_bias else None, padding=1)
    found = convolve(x, weight, bias)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    rounding = 2**-24 * float(F.conv3d(x.abs(), weight.abs(), padding=1).max())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=8 * rounding)


def test_items_threads_and_layouts_change_nothing(monkeypatch):
    x, weight, bias = numbers(4, 16, 5, 6, 7), numbers(16, 16, 3, 3, 3, seed=1), numbers(16, seed=2)
    expected = convolve(x, weight, bias)
    assert torch.equal(torch.cat([convolve(item[None], weight, bias) for item in x]), expected)
    assert torch.equal(convolve(to_channels_last(x), to_channels_last(weight), bias), expected)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(convolve(x, weight, bias), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(bad):
    x, weight = numbers(1, 16, 6, 6, 6), numbers(16, 16, 3, 3, 3, seed=1)
    x[0, 3, 2, 3, 4] = bad
    found = convolve(x, weight, None)
    assert not found[0, :, 1:4, 2:5, 3:6].isfinite().any()
    assert found[0, :, 5].isfinite().all()


def test_weights_are_transformed_along_each_axis_alike():
    weight = numbers(5, 3, 3, 3, 3)
    points = transform_weight(weight).view(4, 4, 4, 3, 5)
    for axes in ((1, 0, 2), (2, 1, 0)):
        turned = weight.permute(0, 1, *(axis + 2 for axis in axes))
        torch.testing.assert_close(transform_weight(turned).view(4, 4, 4, 3, 5), points.permute(*axes, 3, 4))


@pytest.mark.parametrize(
    "inputs, outputs, kernel, items, side, found",
    [
        (16, 32, 3, 1, 16, True),
        (16, 32, 3, 8, 8, True),
        (16, 32, 3, 1, 8, False),
        (1, 32, 3, 1, 16, False),
        (16, 24, 3, 1, 16, False),
        (16, 32, 1, 1, 16, False),
    ],
)
def test_only_large_convolutions_of_whole_vectors_are_taken(inputs, outputs, kernel, items, side, found):
    x, weight = torch.empty(items, inputs, side, side, side), torch.empty(outputs, inputs, *[kernel] * 3)
    assert takes(x, weight) == found


def test_a_block_has_whole_rows_on_every_processor():
    assert numba_winograd.TILES % numba_winograd.ROWS == 0
