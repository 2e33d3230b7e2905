"""Visual state space blocks: against their code's outputs, against the equations written out, by laws."""

import math

import pytest
import torch
import torch.nn.functional as F
from golden_files import fill_vss, golden_file

from nnunet_mamba.blocks.vss import SS2D, DropPath, PatchExpand, PatchMerging, VSSBlock

ORDER = "HW,WH,-HW,-WH"


UNITS = {
    "ss2d": lambda: SS2D(24, order=ORDER),
    "ss2d_strong": lambda: SS2D(24, order=ORDER),
    "vssblock": lambda: VSSBlock(24, 0.2, order=ORDER),
    "patchmerging_even": lambda: PatchMerging(8),
    "patchmerging_odd": lambda: PatchMerging(8),
    "patchexpand_vmunet": lambda: PatchExpand(16, 8),
    "patchexpand_mambaunet": lambda: PatchExpand(16, 8),
    "finalexpand_vmunet": lambda: PatchExpand(16, 4, 4),
    "finalexpand_mambaunet": lambda: PatchExpand(16, 16, 4),
}


@pytest.mark.parametrize("name", UNITS)
def test_equals_its_code(name):
    """Values, gradients and the names of parameters."""
    golden = golden_file(f"unit_{name}")
    shapes = golden.about["state_dict"]
    unit = UNITS[name]().double().eval()
    unit.load_state_dict(
        {key.removeprefix("m."): fill_vss(key, shape, "strong" in name) for key, shape in shapes.items()}
    )
    assert [f"m.{key}" for key in unit.state_dict()] == list(shapes)
    output = unit(golden.input.double())
    assert golden.outputs["out"].error(output) < 2e-6
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(4321))
    (output * weights).sum().backward()
    theirs = golden.about["grad_norms"]
    for key, parameter in unit.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(theirs[f"m.{key}"], rel=1e-3, abs=1e-5)


def test_ss2d_is_its_equations_written_out():
    """Token by token over the four directions, in float64."""
    torch.manual_seed(0)
    ss2d, x = SS2D(6, order=ORDER, d_state=3).double(), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    u, z = F.linear(x, ss2d.in_proj.weight).chunk(2, -1)
    u = F.silu(F.conv2d(u.permute(0, 3, 1, 2), ss2d.conv2d.weight, ss2d.conv2d.bias, padding=1, groups=12))
    pixels = [(i, j) for i in range(4) for j in range(5)]
    columns = [(i, j) for j in range(5) for i in range(4)]
    merged = torch.zeros(2, 4, 5, 12, dtype=torch.float64)
    for k, direction in enumerate([pixels, columns, pixels[::-1], columns[::-1]]):
        own = slice(12 * k, 12 * (k + 1))
        A, D = -ss2d.A_logs[own].exp(), ss2d.Ds[own]
        h = torch.zeros(2, 12, 3, dtype=torch.float64)
        for i, j in direction:
            token = u[:, :, i, j]
            dt, B, C = (token @ ss2d.x_proj_weight[k].T).split([1, 3, 3], -1)
            delta = F.softplus(dt @ ss2d.dt_projs_weight[k].T + ss2d.dt_projs_bias[k])
            h = torch.exp(delta[..., None] * A) * h + (delta * token)[..., None] * B[:, None]
            merged[:, i, j] += (h * C[:, None]).sum(-1) + D * token
    expected = F.linear(ss2d.out_norm(merged) * F.silu(z), ss2d.out_proj.weight)
    torch.testing.assert_close(ss2d(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_values_do_not_leave_half_precision(dtype):
    """The un-normalised sum of scans exceeds float16 here, and never is in it."""
    torch.manual_seed(0)
    ss2d, x = SS2D(16, order=ORDER), 300 * torch.randn(1, 8, 8, 16)
    with torch.no_grad():
        ss2d.Ds.fill_(1e4)
        exact = ss2d(x)
        with torch.autocast("cpu", dtype=dtype):
            rough = ss2d(x)
    assert rough.isfinite().all()
    assert (rough - exact).norm() / exact.norm() < 0.05


def test_initial_values():
    torch.manual_seed(0)
    ss2d = SS2D(64, order=ORDER)
    steps = F.softplus(ss2d.dt_projs_bias)
    assert steps.min() >= 0.99e-3 and steps.max() <= 0.101
    assert ss2d.x_proj_weight.abs().max() <= 128**-0.5 + 1e-7
    assert ss2d.dt_projs_weight.abs().max() <= 4**-0.5 + 1e-7
    torch.testing.assert_close(ss2d.A_logs.exp(), torch.arange(1.0, 17.0).expand(512, 16))


def test_merging_joins_the_four_pixels_of_each_square_in_order():
    merging = PatchMerging(1)
    x = torch.arange(20.0).view(1, 4, 5, 1)
    seen = []
    merging.norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    assert merging(x).shape == (1, 2, 2, 2)  # the fifth column is dropped
    assert seen[0][0, 0, 1].tolist() == [2, 7, 3, 8]


def test_expanding_puts_channels_into_squares():
    expand = PatchExpand(4, 1)
    expand.norm = torch.nn.Identity()
    with torch.no_grad():
        expand.expand.weight.copy_(torch.eye(4))
        square = expand(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4))
    assert square[0, :, :, 0].tolist() == [[1, 2], [3, 4]]


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    drop, x = DropPath(0.3), torch.ones(20000, 2, 3)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert all(len(sample.unique()) == 1 for sample in y[:50])
    assert math.isclose(y.mean(), 1, abs_tol=0.02)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)
