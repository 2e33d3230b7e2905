"""Attention: against softmax and rotations written out, by the laws of relative positions and of windows."""

import math

import pytest
import torch

from nnunet_mamba.blocks.attention import Attention, attention_window, rotary_angles, rotate
from nnunet_mamba.scan_order import scan_order

CPU = torch.device("cpu")
GRIDS = [(7,), (4, 5), (3, 4, 2)]


def rotation(position, p: int) -> torch.Tensor:
    """The p x p matrix of rotary positions at one voxel, entry by entry."""
    matrix, n_pairs = torch.eye(p, dtype=torch.float64), p // (2 * len(position))
    for axis, x in enumerate(position):
        for j in range(n_pairs):
            first = axis * n_pairs + j
            second, angle = first + p // 2, x * 100 ** (-j / n_pairs)
            matrix[first, first] = matrix[second, second] = math.cos(angle)
            matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def written_out(layer: Attention, tokens: torch.Tensor, grid) -> torch.Tensor:
    """Every voxel's softmax over all voxels, head by head."""
    turns = torch.stack(
        [
            rotation(position, layer.headdim)
            for position in torch.cartesian_prod(*(torch.arange(size) for size in grid))
            .view(-1, len(grid))
            .tolist()
        ]
    )
    heads = []
    for q, k, v in zip(*(t.split(layer.headdim, -1) for t in layer.qkv(tokens).chunk(3, -1)), strict=True):
        q, k = (torch.einsum("lij,blj->bli", turns, t) for t in (q, k))
        heads.append((q @ k.transpose(1, 2) / layer.headdim**0.5).softmax(-1) @ v)
    return layer.proj(torch.cat(heads, -1))


def attention(features: int, **options) -> Attention:
    """Return a layer in float64 whose scores differ: ten times the initial weights."""
    torch.manual_seed(0)
    layer = Attention(features, **options).double()
    with torch.no_grad():
        layer.qkv.weight.mul_(10)
    return layer


@pytest.mark.parametrize("headdim", [6, 8, 9])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_is_rotated_softmax_attention(grid, headdim):
    """Heads that divide the features or not, with pairs and channels left over or not."""
    layer, tokens = attention(16, headdim=headdim), torch.randn(2, math.prod(grid), 16).double()
    torch.testing.assert_close(layer(tokens, grid), written_out(layer, tokens, grid))


@pytest.mark.parametrize("grid", [(9, 8), (7, 6, 5)], ids=str)
def test_scores_depend_on_relative_positions_alone(grid):
    angles = rotary_angles(grid, 16, CPU, torch.float64)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    scores = torch.einsum("...i,...i->...", rotate(q, angles[(0,) * len(grid)]), rotate(k, angles))
    for axis, size in enumerate(grid):
        for shift in range(1, size):
            here = angles.select(axis, shift)[(0,) * (len(grid) - 1)]
            shifted = torch.einsum("...i,...i->...", rotate(q, here), rotate(k, angles))
            torch.testing.assert_close(
                shifted.narrow(axis, shift, size - shift), scores.narrow(axis, 0, size - shift)
            )
        assert scores.diff(dim=axis).abs().min() > 1e-6  # every axis has positions


def test_positions_keep_their_meaning_on_grids_of_other_sizes():
    small, large = (rotary_angles(grid, 12, CPU, torch.float64) for grid in ((3, 4, 5), (6, 5, 9)))
    assert torch.equal(large[:3, :4, :5], small)


@pytest.mark.parametrize(
    "grid, max_tokens, window",
    [
        ((20, 20), 400, (20, 20)),
        ((20, 20), 399, (10, 20)),  # of equal edges the first
        ((10, 56, 48), 4096, (10, 19, 16)),
        ((7,), 3, (3,)),
        ((5, 3), 1, (1, 1)),
    ],
)
def test_windows_worked_out_by_hand(grid, max_tokens, window):
    assert attention_window(grid, max_tokens) == window


@pytest.mark.parametrize("grid", [(11,), (9, 7), (5, 6, 4)], ids=str)
@pytest.mark.parametrize("max_tokens", [1, 5, 12])
def test_a_voxel_moves_its_window_and_nothing_else(grid, max_tokens):
    """By gradients: they are 0 outside the window, whose tokens are a box of at most max_tokens."""
    layer = attention(8, headdim=8, max_tokens=max_tokens)
    tokens = torch.randn(1, math.prod(grid), 8).double().requires_grad_()
    seen = torch.stack(
        [
            torch.autograd.grad(y.sum(), tokens, retain_graph=True)[0].abs().sum(-1)[0] > 0
            for y in layer(tokens, grid)[0]
        ]
    )  # (l, l): whom a voxel sees
    assert torch.equal(seen, seen.T)
    assert seen.diagonal().all()
    assert torch.equal(seen, (seen.double() @ seen.double()) > 0)  # a partition
    assert seen.sum(1).max() <= max_tokens
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, len(grid))
    for row in seen.unique(dim=0):
        edges = places[row].amax(0) - places[row].amin(0) + 1
        assert edges.prod() == row.sum()
        longest = torch.tensor(attention_window(grid, max_tokens))
        assert ((edges == longest) | (edges == longest - 1)).all()


def test_windows_attend_as_grids_of_their_own():
    layer, tokens = attention(8, headdim=8, max_tokens=12), torch.randn(2, 35, 8).double()
    assert attention_window((5, 7), 12) == (3, 4)
    whole = layer(tokens, (5, 7)).view(2, 5, 7, 8)
    for rows, columns in ((slice(0, 3), slice(0, 4)), (slice(3, 5), slice(4, 7))):
        part = tokens.view(2, 5, 7, 8)[:, rows, columns]
        own = layer(part.flatten(1, 2), tuple(part.shape[1:3]))
        torch.testing.assert_close(own, whole[:, rows, columns].flatten(1, 2))


def test_gradients_reach_every_parameter():
    layer = attention(10, headdim=8, max_tokens=9)
    tokens = torch.randn(2, 30, 10).double().requires_grad_()
    layer(tokens, (5, 3, 2)).square().sum().backward()
    assert all(t.grad.abs().max() > 0 for t in (tokens, *layer.parameters()))


def test_a_layer_begins_as_vit():
    layer = Attention(256)
    for linear in (layer.qkv, layer.proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not linear.bias.any()


def test_heads_too_narrow_for_positions_and_empty_windows_are_refused():
    with pytest.raises(ValueError, match=r"5 channels have no room .* 3 axes; use a headdim of at least 6"):
        Attention(8, headdim=5)(torch.zeros(1, 8, 8), (2, 2, 2))
    for headdim, order in ((5, scan_order("uni", 3)), (3, scan_order("uni", 2)), (0, ()), (-4, ())):
        with pytest.raises(ValueError, match=f"Heads of {headdim} channels have no room"):
            Attention(8, order, headdim=headdim)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        Attention(8, max_tokens=0)


def test_it_compiles_as_one_graph():
    layer, tokens = Attention(8, headdim=8, max_tokens=12), torch.randn(1, 35, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, (5, 7)), layer(tokens, (5, 7)))
