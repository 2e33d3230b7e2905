"""Rows of the scan matrix against the dense matrix, against the block's own output, and worked by hand."""

import math

import pytest
import torch
from torch.nn.functional import silu

from nnunet_mamba.analysis import attention
from nnunet_mamba.analysis.attention import Scan, direction_name, iterate_scans
from nnunet_mamba.blocks.mamba import Mamba
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.ops.reference import selective_scan_reference
from nnunet_mamba.scan_order import scan_order

GRID = (2, 3, 5)
L = math.prod(GRID)


def dense(scan: Scan, sequence: int) -> torch.Tensor:
    """M of every channel (l, l, d): column s is what the slow scan makes of a one at step s."""
    length, d = scan.delta.shape[1:]
    ones = torch.eye(length, dtype=torch.float64)[..., None].expand(-1, -1, d)  # a batch of impulses
    same = [t[sequence].expand(length, -1, -1) for t in (scan.delta, scan.B, scan.C)]
    B, C = (t[:, None] for t in same[1:])
    y = selective_scan_reference(ones, same[0], scan.A, B, C, None, None, None, None, False, False)
    return y.permute(1, 0, 2)


def tokens(channels: int) -> torch.Tensor:
    return torch.randn(1, L, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mamba(order: str, channels: int = 4) -> Mamba:
    torch.manual_seed(0)
    return Mamba(channels, scan_order(order, 3), d_state=5).double()


@pytest.mark.parametrize("order", ["uni", "bi", "multi", "m,-m", "n,-o,p"])
@pytest.mark.parametrize("chunk", [4, 256])
def test_rows_are_those_of_the_dense_matrix(order, chunk, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", chunk)
    for scan in iterate_scans(mamba(order), tokens(4), GRID):
        for sequence in range(len(scan.u)):
            matrix = dense(scan, sequence)
            for step in range(len(scan.tokens)):
                torch.testing.assert_close(scan.row(sequence, step), matrix[step], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("order", ["uni", "bi", "multi", "m,-m,a"])
def test_the_matrices_make_the_blocks_own_output(order):
    """out = W_out (sum_k (M_k u_k + D_k u_k) silu(z))."""
    block, x = mamba(order), tokens(4)
    total = torch.zeros(1, L, 8, dtype=torch.float64)
    for ssm, scan in zip([block, *block.further], iterate_scans(block, x, GRID), strict=True):
        for g in range(len(scan.u)):
            y = torch.einsum("tsd,sd->td", dense(scan, g), scan.u[g]) + ssm.D * scan.u[g]
            total[0, g * len(scan.tokens) + scan.tokens] += y
    z = block.in_proj(x).chunk(2, dim=-1)[1]
    torch.testing.assert_close(block.out_proj(total * silu(z)), block(x, GRID))


def test_the_matrices_make_the_output_of_a_vision_block():
    torch.manual_seed(0)
    block, grid = SS2D(4, order="HW,WH,-HW,-WH", d_state=3).double(), (3, 4)
    x = torch.randn(1, *grid, 4, dtype=torch.float64)
    total = torch.zeros(1, 12, 8, dtype=torch.float64)
    for D, scan in zip(block.Ds.view(4, -1), iterate_scans(block, x, grid), strict=True):
        y = torch.einsum("tsd,sd->td", dense(scan, 0), scan.u[0]) + D * scan.u[0]
        total[0, scan.tokens] += y
    z = block.in_proj(x).chunk(2, dim=-1)[1]
    expected = block.out_proj(block.out_norm(total).view(z.shape) * silu(z))
    torch.testing.assert_close(block(x), expected)


def by_hand(order: str, grid: tuple[int, ...], B: torch.Tensor | None = None) -> Scan:
    """One channel, one state, delta = 1, A = -ln 2, C = 1: M[t, s] = B_s / 2**(t - s)."""
    direction = scan_order(order, len(grid))[0]
    length = math.prod(grid)
    ones = torch.ones(1, length, 1, dtype=torch.float64)
    steps = (
        torch.arange(length)
        if direction.token_indices(grid) is None
        else direction.token_indices(grid).long()
    )
    steps = steps.flip(0) if direction.reverse else steps
    A = torch.tensor([[-math.log(2)]], dtype=torch.float64)
    return Scan(order, grid, ones, ones, A, ones if B is None else B[steps].view(1, -1, 1), ones, steps)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("HW", [[1 / 16, 1 / 8, 1 / 4], [1 / 2, 1, 0]]),
        ("-HW", [[0, 0, 0], [0, 1, 1 / 2]]),
        ("WH", [[1 / 8, 1 / 2, 0], [1 / 4, 1, 0]]),
        ("-WH", [[0, 0, 1 / 2], [0, 1, 1 / 4]]),
        ("zigzag", [[1 / 16, 1 / 8, 1 / 4], [0, 1, 1 / 2]]),
    ],
)
def test_a_row_folds_back_onto_the_grid(order, expected):
    """Of the voxel (1, 1) on a grid of 2 x 3: it counts itself most, then what the scan met last."""
    torch.testing.assert_close(
        by_hand(order, (2, 3)).attention_map(4), torch.tensor(expected, dtype=torch.float64)
    )


def test_a_single_voxel_that_speaks_is_the_only_one_heard():
    """B is 0 but at the voxel (0, 2), six steps before (2, 0) in memory order; 1/2**6 is left."""
    B = torch.zeros(12, dtype=torch.float64)
    B[2] = 1
    heard = by_hand("HW", (3, 4), B).attention_map(8)
    assert heard.nonzero().tolist() == [[0, 2]]
    assert heard[0, 2] == pytest.approx(1 / 64)


def test_slices_do_not_hear_each_other():
    for scan in iterate_scans(mamba("m,-m"), tokens(4), GRID):
        heard = scan.attention_map(7 + 15)  # slice 1, row 1, column 2
        assert heard.shape == GRID
        assert not heard[0].any() and heard[1, 1, 2] > 0


def test_directions_are_called_as_they_are_spelled():
    for word in ("DHW", "-WDH", "slices", "-windows", "zigzag", "interleave4"):
        (direction,) = scan_order(word, 3)
        assert direction_name(direction, 3) == word


def test_long_scans_need_no_matrix():
    """2**16 tokens, of which the matrix would take 32 GiB per channel."""
    scan = by_hand("HW", (256, 256))
    row = scan.row(0, 2**16 - 1)
    assert row.sum() == pytest.approx(2.0)
    assert row[-3:].flatten().tolist() == pytest.approx([0.25, 0.5, 1.0])
