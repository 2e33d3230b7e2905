"""LKM-UNet's mixer: which voxels form a sequence. The network against its authors' code is in
tests/networks/test_golden_mixers.py."""

import itertools
import math

import pytest
import torch
from torch import nn

from nnunet_mamba import create_network
from nnunet_mamba.blocks import large_kernel
from nnunet_mamba.blocks.large_kernel import LargeKernelMixer, join, split, warn_of_whole_maps

GRID, PARTS = (4, 6, 10), (2, 3, 5)


def numbered(grid=GRID, batch=2, channels=3):
    """A map whose values are all different."""
    return torch.arange(batch * channels * math.prod(grid)).view(batch, channels, *grid)


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize(("grid", "parts"), [(GRID, PARTS), ((6, 8), (3, 2)), ((4, 6), (1, 6))])
def test_parts_are_joined_to_the_map_they_are_split_from(grid, parts, contiguous):
    x = numbered(grid)
    assert torch.equal(join(split(x, parts, contiguous), parts, x, contiguous), x)


def test_a_lattice_has_every_mth_voxel_of_each_axis():
    x = numbered()
    lattices = split(x, PARTS, contiguous=False)
    offsets = itertools.product(range(2), *map(range, PARTS))  # in the order of the batch
    for lattice, (item, i, j, k) in zip(lattices, offsets, strict=True):
        assert torch.equal(lattice, x[item, :, i :: PARTS[0], j :: PARTS[1], k :: PARTS[2]])


def test_a_window_has_neighbouring_voxels():
    x = numbered()
    windows = split(x, PARTS, contiguous=True)
    corners = itertools.product(range(2), *(range(0, n, part) for n, part in zip(GRID, PARTS, strict=True)))
    for window, (item, i, j, k) in zip(windows, corners, strict=True):
        assert torch.equal(window, x[item, :, i : i + PARTS[0], j : j + PARTS[1], k : k + PARTS[2]])


CT = [(40, 224, 192), (40, 112, 96), (20, 56, 48), (10, 28, 24), (5, 14, 12), (5, 7, 6)]
MR_2D = [(320 // 2**s,) * 2 for s in range(7)]


@pytest.mark.parametrize(
    ("grids", "periods"),
    [
        (CT, [(20, 28, 24), (20, 28, 24), (10, 14, 12), (10, 14, 12), (5, 7, 6), (5, 7, 6)]),
        (MR_2D, [(size,) * 2 for size in (40, 20, 20, 10, 10, 5, 5)]),
        ([(128 // 2**s,) * 3 for s in range(6)], [(1, 1, 1)] * 6),
        ([(512 // 2**s,) * 2 for s in range(8)], [(1, 1)] * 8),
    ],
)
def test_lattices_on_known_plans(grids, periods):
    """As the authors' code has them: where they do not divide, the whole map is one sequence."""
    n_stages = len(grids)
    mixers = [LargeKernelMixer(2, len(grid), level=n_stages - s) for s, grid in enumerate(grids)]
    assert [mixer.parts(grid) for mixer, grid in zip(mixers, grids, strict=True)] == periods


@pytest.mark.parametrize("windows", ["nearest", "contiguous"])
def test_nearest_divisors_cut_any_map_and_are_the_codes_where_these_divide(windows):
    mixer = LargeKernelMixer(2, 3, level=5, windows=windows)
    assert mixer.parts((40, 224, 192)) == (20, 28, 24)
    assert mixer.parts((128, 160, 96)) == (16, 32, 24)
    assert mixer.parts((7, 11, 13)) == (13 // 2 + 1, 11, 13)


@pytest.mark.parametrize("windows", ["lattice", "nearest", "contiguous", "whole"])
def test_sequences_do_not_hear_of_each_other(windows):
    """The gradient of the first voxel reaches the voxels of its part alone; that of W the whole map."""
    torch.manual_seed(0)
    mixer, grid = LargeKernelMixer(2, 2, level=1, windows=windows).double(), (10, 15)
    x = torch.randn(1, 2, *grid, dtype=torch.float64, requires_grad=True)
    parts, first = mixer.parts(grid), torch.zeros(grid, dtype=torch.bool)
    if windows == "contiguous":
        first[: parts[0], : parts[1]] = True
    else:
        first[:: parts[0], :: parts[1]] = True
    assert (windows == "whole") == bool(first.all())
    reached = torch.autograd.grad(mixer.scan_parts(x)[0, :, 0, 0].sum(), x)[0].abs().sum((0, 1)) > 0
    assert torch.equal(reached, first)
    assert (torch.autograd.grad(mixer.scan_pooled(x)[0, :, 0, 0].sum(), x)[0] != 0).all()


def test_maps_taken_whole_in_training_are_warned_of_once_per_patch(caplog):
    """Of its largest map: six stages give one warning, and networks for other patches one each."""
    large_kernel._warn_of_whole_map.cache_clear()

    def build(patch, **options):
        mixers = [
            LargeKernelMixer(2, 3, level=6 - s, grid=tuple(n >> s for n in patch), **options)
            for s in range(4)
        ]
        warn_of_whole_maps(nn.Sequential(*mixers))
        return len(caplog.records)

    assert build((160, 224, 192)) == 0
    assert build((128, 128, 96), windows="nearest") == 0
    assert [build((128, 128, 96)) for _ in range(2)] == [1, 1]
    assert "every (20, 28, 24) voxels, do not divide a map of (128, 128, 96)" in caplog.text
    assert build((64, 64, 48)) == 2


def test_a_network_warns(caplog):
    large_kernel._warn_of_whole_map.cache_clear()
    with torch.device("meta"):
        create_network("lkm_unet", input_channels=1, num_classes=2, patch_size=[32, 32])
    assert len(caplog.records) == 1 and "a map of (32, 32)" in caplog.text


def test_unknown_windows():
    with pytest.raises(ValueError, match="windows: unknown 'swin'; choose from lattice, nearest"):
        LargeKernelMixer(2, 3, level=1, windows="swin")
