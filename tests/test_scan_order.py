"""Laws of walks."""

import pytest
import torch

from nnunet_mamba.scan_order import ScanPath, scan_order

GRIDS = [(4, 6), (2, 3, 5), (1, 4, 3)]


def visited(path: ScanPath, grid: tuple[int, ...]) -> torch.Tensor:
    rows = path.rows(grid)
    rows = torch.arange(torch.Size(grid).numel()) if rows is None else rows.long()
    return rows.flip(0) if path.backwards else rows


@pytest.mark.parametrize("name", ["uni", "bi", "multi", "raster"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_path_visits_each_voxel_once(name, grid):
    for path in scan_order(name, len(grid)):
        assert torch.equal(visited(path, grid).sort().values, torch.arange(torch.Size(grid).numel()))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_path_reads_the_permuted_volume_in_memory_order(grid):
    volume = torch.randn(grid)
    for path in scan_order("raster", len(grid)):
        expected = volume.permute(path.axes).flatten()
        expected = expected.flip(0) if path.backwards else expected
        assert torch.equal(volume.flatten()[visited(path, grid)], expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_in_multi_every_axis_is_fastest_once_in_each_direction(ndim):
    fastest = [(path.axes[-1], path.backwards) for path in scan_order("multi", ndim)]
    assert sorted(fastest) == [(axis, backwards) for axis in range(ndim) for backwards in (False, True)]


def test_the_raster_orders_are_all_different():
    for ndim, n_orders in ((2, 4), (3, 12)):
        walks = {tuple(visited(path, (2, 3, 5)[:ndim]).tolist()) for path in scan_order("raster", ndim)}
        assert len(walks) == n_orders


def test_six_voxels_by_hand():
    """A 2 x 3 grid 0 1 2 / 3 4 5, column by column, and back."""
    down, up = scan_order("WH,-WH", 2)
    assert visited(down, (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert visited(up, (2, 3)).tolist() == [5, 2, 4, 1, 3, 0]


def test_memory_order_needs_no_table():
    assert scan_order("uni", 3)[0].rows((2, 3, 4)) is None
    assert scan_order("DHW", 3) == scan_order("uni", 3)


@pytest.mark.parametrize(("name", "ndim"), [("spiral", 3), ("DHW", 2), ("HW", 3), ("DHW,", 3), ("", 2)])
def test_unknown_orders_are_refused_with_the_known_ones(name, ndim):
    with pytest.raises(
        ValueError, match=rf"Unknown scan order '{name}' in {ndim}D; choose one of uni, bi, multi, raster"
    ):
        scan_order(name, ndim)


def test_only_images_and_volumes_have_orders():
    with pytest.raises(ValueError, match="2 or 3 axes, not 4"):
        scan_order("uni", 4)
