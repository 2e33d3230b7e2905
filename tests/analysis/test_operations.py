"""Counts of multiply-adds against products that are counted one by one, and against closed forms."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from nnunet_mamba import create_network
from nnunet_mamba.analysis.operations import count_multiply_adds
from nnunet_mamba.ops import (
    multi_directional_conv1d,
    multi_directional_linear_attention,
    multi_directional_scan,
)


class Scalars:
    """Arithmetic on numbers, one product at a time, that counts them."""

    def __init__(self):
        self.products = 0

    def times(self, a, b):
        self.products += 1
        return float(a) * float(b)

    def total(self, pairs):
        return sum(self.times(a, b) for a, b in pairs)


class Call(nn.Module):
    """A function as a network whose input (1, 1, *shape) is its first tensor, of `shape`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x[0, 0])


def counted(function, first, *arguments, **options):
    """The multiply-adds of function(first, *arguments, **options)."""
    rest = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    return count_multiply_adds(Call(lambda x: function(x, *rest, **options)), 1, first.shape)


def scan_by_hand(u, delta, A, B, C, D, z):
    """The sum over directions of the scans of one image, (l, d), by the definition."""
    scalars, ((k, length, d), n) = Scalars(), (delta.shape, A.shape[-1])
    y = torch.zeros(length, d, dtype=u.dtype)
    for direction, c in product(range(k), range(d)):
        h = [0.0] * n
        for t in range(length):
            step = scalars.times(delta[direction, t, c], u[direction % len(u), t, c])
            for s in range(n):
                decay = math.exp(scalars.times(delta[direction, t, c], A[direction, c, s]))
                h[s] = scalars.times(decay, h[s]) + scalars.times(step, B[direction, t, s])
            y[t, c] += scalars.total(zip(h, C[direction, t], strict=True))
            y[t, c] += 0 if D is None else scalars.times(D[direction, c], u[direction % len(u), t, c])
    if z is not None:
        gate = nn.functional.silu(z)
        y = torch.tensor([[scalars.times(y[t, c], gate[t, c]) for c in range(d)] for t in range(length)])
    return y, scalars.products


@pytest.mark.parametrize("with_d", [True, False])
@pytest.mark.parametrize("with_z", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_scan_has_the_products_of_its_definition(with_d, with_z, shared):
    torch.manual_seed(0)
    k, length, d, n = 2, 3, 4, 2
    u, delta = torch.randn(1 if shared else k, length, d).double(), torch.rand(k, length, d).double()
    A, (B, C) = -torch.rand(k, d, n).double(), torch.randn(2, k, length, n).double()
    D = torch.randn(k, d).double() if with_d else None
    z = torch.randn(length, d).double() if with_z else None
    expected, products = scan_by_hand(u, delta, A, B, C, D, z)
    gate = None if z is None else z[None]
    tensors = (u[:, None], delta[:, None], A, B[:, None, None], C[:, None, None], D, gate)
    result = multi_directional_scan(*tensors, reverse=[False] * k, backend="reference")
    torch.testing.assert_close(result[0], expected.double())
    assert counted(multi_directional_scan, *tensors, reverse=[False] * k) == products


def test_a_causal_convolution_has_a_product_for_each_tap():
    """At the first tokens, too: nothing says that the zeros before them are left out."""
    x, weight, bias = torch.randn(1, 2, 5, 3), torch.randn(2, 3, 4), torch.randn(2, 3)
    taps = counted(multi_directional_conv1d, x, weight, bias, "silu", reverse=[False, True])
    assert taps == 2 * (2 * 5 * 3) * 4  # directions, values, taps


def test_linear_attention_has_the_products_of_its_definition():
    torch.manual_seed(0)
    length, heads, p, n = 3, 2, 2, 3
    values, log_decay = torch.randn(length, heads, p).double(), -torch.rand(length, heads).double()
    key, query = torch.randn(2, length, n).double()
    scalars, expected = Scalars(), torch.zeros_like(values)
    for head, channel in product(range(heads), range(p)):
        state = [0.0] * n
        for t in range(length):
            decay, v = math.exp(log_decay[t, head]), values[t, head, channel]
            state = [scalars.times(decay, state[s]) + scalars.times(v, key[t, s]) for s in range(n)]
            expected[t, head, channel] = scalars.total(zip(state, query[t], strict=True))
    tensors = tuple(t[None, None] for t in (values, log_decay, key[:, None], query[:, None]))
    result = multi_directional_linear_attention(*tensors, reverse=[False], backend="reference")
    torch.testing.assert_close(result[0], expected)
    assert counted(multi_directional_linear_attention, *tensors, reverse=[False]) == scalars.products
    twice = (tensors[0], *(t.expand(2, *t.shape[1:]) for t in tensors[1:]))
    both = counted(multi_directional_linear_attention, *twice, reverse=[False, True])
    assert both == 2 * scalars.products


SIZES = {
    "features_per_stage": [4, 6, 8],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def build(name, **words):
    with torch.device("meta"):
        sizes = {**SIZES, "patch_size": [8, 16, 16]}
        return create_network(name, input_channels=2, num_classes=3, **sizes, **words)


def test_nnunets_network_has_the_products_of_its_convolutions():
    """Two convolutions a stage, each with kernel times channels for every voxel that it makes."""
    voxels = [8 * 16 * 16, 8 * 8 * 8, 4 * 4 * 4]
    encoder = voxels[0] * 9 * (2 * 4 + 4 * 4) + voxels[1] * 27 * (4 * 6 + 6 * 6)
    encoder += voxels[2] * 27 * (6 * 8 + 8 * 8)
    up = voxels[1] * 8 * 6 + voxels[0] * 6 * 4  # kernel = stride: one tap for each voxel that is made
    decoder = voxels[1] * 27 * (12 * 6 + 6 * 6) + voxels[0] * 9 * (8 * 4 + 4 * 4)
    head = voxels[0] * 4 * 3
    assert count_multiply_adds(build("nnunet"), 2, [8, 16, 16]) == encoder + up + decoder + head


def test_mm_unets_mixers_cost_what_their_parts_do():
    """MM-UNet beyond its twin: projections, two directions of convolution and scan, in stages 1 and 2."""
    more = 0
    for tokens, channels in ((8 * 8 * 8, 6), (4 * 4 * 4, 8)):
        inner, states, rank, padded = 2 * channels, 16, 1, 4  # columns for delta, with zeros beside the rank
        projections = 3 * channels * inner  # to x and z, and back
        of_direction = inner * (4 + padded + 2 * states + rank + 4 * states + 2)
        more += tokens * (projections + 2 * of_direction + inner)
    ours, twin = (count_multiply_adds(build(name), 2, [8, 16, 16]) for name in ("mm_unet", "mm_unet_nossm"))
    assert ours - twin == more


def test_a_count_is_of_one_image_and_scales_with_the_voxels_but_for_whole_attention():
    small, large = (count_multiply_adds(build("mm_unet"), 2, [8, 16, size]) for size in (16, 32))
    assert large == 2 * small
    small, large = (
        count_multiply_adds(build("mm_unet", mixer="attention"), 2, [8, 16, size]) for size in (16, 32)
    )
    assert large > 2 * small
