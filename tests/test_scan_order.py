"""Laws of scan orders and directions."""

import pytest
import torch

from nnunet_mamba.scan_order import LETTERS, MM_UNET_ROWS, ScanDirection, scan_order

GRIDS = [(4, 6), (7, 5), (1, 1), (2, 3, 5), (1, 4, 3), (9, 6, 5)]
ORDERS = {
    2: ["uni", "bi", "multi", "raster", "B1", "B2", "B7", "B8", "B9", *LETTERS[2], "interleave4"],
    3: [
        "uni",
        "bi",
        "multi",
        "raster",
        *MM_UNET_ROWS,
        *LETTERS[3],
        "interleave1",
        "interleave4",
        "interleave999",
    ],
}
EVERY_ORDER = [(name, grid) for grid in GRIDS for name in ORDERS[len(grid)]]


def scan_indices(direction: ScanDirection, grid: tuple[int, ...]) -> torch.Tensor:
    token_indices = direction.token_indices(grid)
    token_indices = torch.arange(torch.Size(grid).numel()) if token_indices is None else token_indices.long()
    return token_indices.flip(0) if direction.reverse else token_indices


def coordinates(tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    return torch.stack(torch.unravel_index(tokens, grid), 1)


@pytest.mark.parametrize(("name", "grid"), EVERY_ORDER)
def test_every_direction_visits_each_voxel_once(name, grid):
    for direction in scan_order(name, len(grid)):
        assert torch.equal(
            scan_indices(direction, grid).sort().values, torch.arange(torch.Size(grid).numel())
        )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_direction_reads_the_permuted_volume_in_memory_order(grid):
    volume = torch.randn(grid)
    for direction in scan_order("raster", len(grid)):
        expected = volume.permute(direction.axes).flatten()
        expected = expected.flip(0) if direction.reverse else expected
        assert torch.equal(volume.flatten()[scan_indices(direction, grid)], expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_in_multi_every_axis_is_fastest_once_in_each_direction(ndim):
    fastest = [(direction.axes[-1], direction.reverse) for direction in scan_order("multi", ndim)]
    assert sorted(fastest) == [(axis, reverse) for axis in range(ndim) for reverse in (False, True)]


def test_the_raster_orders_are_all_different():
    for ndim, n_orders in ((2, 4), (3, 12)):
        orders = {
            tuple(scan_indices(direction, (2, 3, 5)[:ndim]).tolist())
            for direction in scan_order("raster", ndim)
        }
        assert len(orders) == n_orders


def test_six_voxels_by_hand():
    """A 2 x 3 grid 0 1 2 / 3 4 5, column by column, and back."""
    down, up = scan_order("WH,-WH", 2)
    assert scan_indices(down, (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert scan_indices(up, (2, 3)).tolist() == [5, 2, 4, 1, 3, 0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_in_zigzag_successive_tokens_touch(grid):
    (direction,) = scan_order("zigzag", len(grid))
    steps = coordinates(scan_indices(direction, grid), grid).diff(dim=0).abs().sum(1)
    assert (steps == 1).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_in_diagonals_the_sum_of_coordinates_never_falls(grid):
    (direction,) = scan_order("diagonal", len(grid))
    sums = coordinates(scan_indices(direction, grid), grid).sum(1)
    assert (sums.diff() >= 0).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_in_windows_each_window_is_finished_before_the_next(grid):
    (direction,) = scan_order("windows", len(grid))
    windows = [tuple(w) for w in (coordinates(scan_indices(direction, grid), grid) // 4).tolist()]
    in_turn = [w for i, w in enumerate(windows) if i == 0 or w != windows[i - 1]]
    assert len(in_turn) == len(set(windows))
    assert in_turn == sorted(in_turn)


def test_slices_are_sequences_of_their_own():
    forward, back = scan_order("B6", 3)
    assert forward.n_sequences((5, 3, 4)) == 5 and back.reverse
    assert scan_order("a", 3)[0].n_sequences((5, 3, 4)) == 1


def test_small_orders_by_hand():
    def steps(name, grid):
        return scan_indices(scan_order(name, len(grid))[0], grid).tolist()

    assert steps("zigzag", (3, 2)) == [0, 1, 3, 2, 4, 5]
    assert steps("zigzag", (2, 2, 2)) == [0, 1, 3, 2, 6, 7, 5, 4]
    assert steps("diagonal", (2, 3)) == [0, 1, 3, 2, 4, 5]
    assert steps("windows", (2, 6)) == [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11]
    assert steps("interleave2", (2, 3)) == [0, 3, 1, 4, 2, 5]
    assert steps("interleave4", (2, 3)) == [0, 2, 4, 1, 3, 5]
    assert steps("-interleave2", (2, 3)) == [5, 2, 4, 1, 3, 0]


def test_letters_and_rows_are_the_papers():
    assert scan_order("a,c,e,g,i,k", 3) == scan_order("DHW,DWH,WDH,WHD,HDW,HWD", 3)
    assert scan_order("b,d,f,h,j,l", 3) == scan_order("-DHW,-DWH,-WDH,-WHD,-HDW,-HWD", 3)
    assert scan_order("B3", 3) == scan_order("DHW,-DHW,HWD", 3)
    assert scan_order("B4", 3) == scan_order("DHW,-DHW,DWH,-DWH,WDH,-WDH", 3)
    assert scan_order("B5", 3) == scan_order("a,b,c,d,e,f,g,h,i,j,k,l", 3)
    assert set(scan_order("B5", 3)) == set(scan_order("raster", 3))
    assert [len(scan_order(row, 3)) for row in MM_UNET_ROWS] == [1, 2, 3, 6, 12, 2, 2, 2, 2]
    assert scan_order("B2", 3) == scan_order("bi", 3)


@pytest.mark.parametrize("name", ["c", "m", "slices", "B4", "B6"])
def test_directions_that_need_three_axes_are_refused_in_two(name):
    with pytest.raises(ValueError, match=f"Unknown scan order '{name}' in 2D, which has no direction"):
        scan_order(name, 2)


def test_memory_order_needs_no_table():
    assert scan_order("uni", 3)[0].token_indices((2, 3, 4)) is None
    assert scan_order("DHW", 3) == scan_order("uni", 3)


@pytest.mark.parametrize(("name", "ndim"), [("spiral", 3), ("DHW", 2), ("HW", 3), ("DHW,", 3), ("", 2)])
def test_unknown_orders_are_refused_with_the_known_ones(name, ndim):
    with pytest.raises(
        ValueError, match=rf"Unknown scan order '{name}' in {ndim}D, .* choose one of uni, bi, multi, raster"
    ):
        scan_order(name, ndim)


def test_only_images_and_volumes_have_orders():
    with pytest.raises(ValueError, match="2 or 3 axes, not 4"):
        scan_order("uni", 4)
