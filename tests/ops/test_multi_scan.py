"""Several directions in one call: the sum of what each gives by itself, and gradients of what they share."""

import pytest
import torch
from scans import (
    assert_equal,
    convolution_results,
    convolutions,
    directions_options,
    directions_problem,
    directions_results,
)

from nnunet_mamba.ops import multi_directional_conv1d, multi_directional_scan, selective_scan

FAST = ["numba", "torch"]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shared", [False, True], ids=["own u", "one u"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_the_reference(backend, shared, k):
    arguments, options = directions_problem(k, 2, 45, 20, 5, g=2, shared=shared)
    expected = directions_results(arguments, options, "reference")
    assert_equal(directions_results(arguments, options, backend), expected, 1e-12)


def test_is_the_sum_of_single_scans():
    arguments, options = directions_problem(3, 2, 30, 8, 4, indices=True)
    y = torch.zeros(2, 30, 8, dtype=torch.float64)
    for direction in range(3):
        own = {name: t if name == "z" else t[direction] for name, t in arguments.items()}
        first = {
            name: t.transpose(-1, -2) if name in ("u", "delta", "B", "C", "z") else t
            for name, t in own.items()
        }
        scan = selective_scan(
            **first,
            delta_softplus=True,
            reverse=options["reverse"][direction],
            indices=options["indices"][direction],
        )
        y += scan.transpose(1, 2)
    torch.testing.assert_close(multi_directional_scan(**arguments, **options), y)


@pytest.mark.parametrize("backend", FAST)
def test_half_precision_is_rounded_once(backend):
    arguments, options = directions_problem(4, 1, 50, 8, 4, dtype=torch.float32)
    half = {name: t.detach().half() for name, t in arguments.items()}
    y = multi_directional_scan(**half, **options, backend=backend)
    exact = multi_directional_scan(
        **{name: t.double() for name, t in half.items()}, **options, backend="reference"
    )
    assert y.dtype == torch.float16
    assert ((y.double() - exact).abs() <= 2**-11 * exact.abs() + 1e-4).all()


@pytest.mark.parametrize("shared", [False, True], ids=["own x", "one x"])
@pytest.mark.parametrize("k", [1, 3])
def test_convolutions_equal_the_reference(shared, k):
    arguments, options = convolutions(k, 2, 30, 20, 4, shared=shared)
    expected = convolution_results(arguments, options, "reference")
    assert_equal(convolution_results(arguments, options, "numba"), expected, 1e-12)


def test_wrong_numbers_of_directions_are_named():
    arguments, options = directions_problem(2, 1, 10, 4, 3)
    with pytest.raises(ValueError, match="delta has 2 directions, so A must have as many"):
        multi_directional_scan(**(arguments | {"A": arguments["A"][:1]}), **options)
    one = {"indices": torch.arange(10, dtype=torch.int32)[None]}
    with pytest.raises(ValueError, match="delta has 2 directions, so indices must have as many"):
        multi_directional_scan(**arguments, **(options | one))
    with pytest.raises(ValueError, match="reverse 3"):
        multi_directional_scan(**arguments, **(options | {"reverse": [False] * 3}))
    x, weight = torch.ones(3, 1, 10, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="2 filters need as many"):
        multi_directional_conv1d(x, weight, **directions_options(2, 10, indices=False))
