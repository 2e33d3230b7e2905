"""The Mamba-2 block: equal to the golden file of the papers' code, its directions, its rule for heads."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import FULL, SAMPLES, fill_mixers

from nnunet_mamba.blocks.mamba2 import Mamba2, choose_headdim
from nnunet_mamba.ops import linear_attention
from nnunet_mamba.scan_order import scan_order


def golden_case(case):
    """Arrays of a case in float64, and what the file says about it."""
    full = FULL / "unit_mamba2.npz"
    file = np.load(full if full.is_file() else SAMPLES / "units" / "unit_mamba2.npz")
    arrays = {k.removeprefix(f"{case}/"): torch.from_numpy(file[k]) for k in file if k.startswith(f"{case}/")}
    return {k: t.double() for k, t in arrays.items()}, json.loads(str(file["cases_json"]))[case]


def assert_same(actual, expected, error=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=error * expected.abs().max().item())


LAYERS = {  # channels, options, error: the class of full_g2 takes exp(A_log) in float32
    "simple_g1": (16, {"d_state": 8, "headdim": 8}, 1e-12),
    "full_g2": (24, {"d_state": 8, "headdim": 12, "groups": 2}, 1e-6),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layer_equals_the_papers_code_in_output_and_gradients(case):
    golden, about = golden_case(case)
    channels, options, error = LAYERS[case]
    layer = Mamba2(channels, scan_order("uni", 2), **options).double()
    shapes = about["params"]
    assert {name: list(p.shape) for name, p in layer.named_parameters()} == shapes
    layer.load_state_dict({name: fill_mixers(name, shape, strong=True) for name, shape in shapes.items()})
    x = golden["x"].requires_grad_()
    y = layer(x, (1, x.shape[1]))
    assert_same(y, golden["y_fp64"], error)
    (y * golden["w"]).sum().backward()
    assert_same(x.grad, golden["grad_x_fp64"], error)
    for name, parameter in layer.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(about["grad_norms"][name], rel=error)
        if (key := f"grad_param/{name}_fp64") in golden:
            assert_same(parameter.grad, golden[key], error)


@pytest.mark.parametrize("case", ["scan_g1", "scan_g2_z"])
def test_linear_attention_is_mamba_2s_scan(case):
    golden, _ = golden_case(case)
    names = [name for name in ("x", "dt", "A", "B", "C", "dt_bias", "D", "z") if name in golden]
    inputs = {name: golden[name].requires_grad_() for name in names}
    step = F.softplus(inputs["dt"] + inputs["dt_bias"])
    decays, D = step * inputs["A"], inputs["D"].view(4, -1)
    y = linear_attention(inputs["x"] * step[..., None], decays, inputs["B"], inputs["C"])
    y = y + D * inputs["x"]
    y = y * F.silu(inputs["z"]) if "z" in inputs else y
    assert_same(y, golden["y_fp64"])
    (y * golden["w"]).sum().backward()
    for name, tensor in inputs.items():
        assert_same(tensor.grad, golden[f"grad_{name}_fp64"])


def test_D_per_channel_is_D_per_head_where_a_heads_are_equal():
    torch.manual_seed(0)
    per_head = Mamba2(8, scan_order("bi", 2), headdim=4).double()
    per_channel = Mamba2(8, scan_order("bi", 2), headdim=4, channel_D=True).double()
    for direction in (per_head, *per_head.further):
        torch.nn.init.normal_(direction.D)
    state = per_head.state_dict()
    per_channel.load_state_dict(
        {key: value.repeat_interleave(4) if key.endswith("D") else value for key, value in state.items()}
    )
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    torch.testing.assert_close(per_channel(tokens, (3, 4)), per_head(tokens, (3, 4)))


def test_heads_are_split_into_groups():
    with pytest.raises(ValueError, match="4 heads of 4 channels cannot be split into 3 groups"):
        Mamba2(8, scan_order("uni", 2), headdim=4, groups=3)


def test_the_reverse_direction_is_the_flipped_sequence():
    torch.manual_seed(0)
    forwards, tokens = Mamba2(8, scan_order("DHW", 3)).double(), torch.randn(1, 24, 8, dtype=torch.float64)
    backwards = Mamba2(8, scan_order("-DHW", 3)).double()
    backwards.load_state_dict(forwards.state_dict())
    torch.testing.assert_close(backwards(tokens, (2, 3, 4)), forwards(tokens.flip(1), (2, 3, 4)).flip(1))


@pytest.mark.parametrize("order", ["bi", "DHW,WDH", "DHW,slices"])
def test_directions_are_summed_before_the_gate_and_the_norm(order):
    """With one direction silenced by a convolution of zeros, the other is a layer of one direction."""
    torch.manual_seed(0)
    grid, tokens = (2, 3, 4), torch.randn(2, 24, 8, dtype=torch.float64)
    directions = scan_order(order, 3)
    both = Mamba2(8, directions).double()
    state = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    shared = {name: tensor for name, tensor in state.items() if not name.startswith("further")}
    further = {k.removeprefix("further.0."): v for k, v in state.items() if k.startswith("further")}
    for direction, own, other in ((0, {}, "further.0."), (1, further, "")):
        alone = Mamba2(8, directions[direction : direction + 1]).double()
        alone.load_state_dict(shared | own)
        silence = {
            name: torch.zeros_like(v) for name, v in state.items() if name.startswith(f"{other}conv1d")
        }
        both.load_state_dict(state | silence)
        torch.testing.assert_close(both(tokens, grid), alone(tokens, grid))


@pytest.mark.parametrize(
    ("d_inner", "headdim"),
    [(640, 80), (320, 80), (80, 80), (1024, 64), (512, 64), (128, 16), (64, 8), (12, 12), (1, 1)],
)
def test_heads_have_80_channels_or_come_in_eights(d_inner, headdim):
    assert choose_headdim(d_inner) == headdim


def test_a_headdim_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"headdim 80 does not divide the 64 inner channels.* 8"):
        Mamba2(32, scan_order("uni", 2), headdim=80)


def test_initial_decays_and_steps_are_mamba_2s():
    torch.manual_seed(0)
    layer = Mamba2(512, scan_order("uni", 2), headdim=1)
    rates, steps = layer.A_log.exp(), F.softplus(layer.dt_bias)
    assert 1 <= rates.min() < 1.2 and 15.8 < rates.max() <= 16
    assert abs(rates.mean() - 8.5) < 0.5  # uniform
    assert steps.min() * 1.001 >= 1e-3 and steps.max() <= 0.1001
    assert abs(steps.log10().mean() + 2) < 0.1  # log-uniform
    assert torch.equal(layer.D, torch.ones(1024))


def test_half_precision_rounds_what_is_stored_and_nothing_else():
    """Under autocast projections and the convolution are bfloat16; the norm and all sums are float32."""
    torch.manual_seed(0)
    layer, tokens = Mamba2(32, scan_order("bi", 2)), torch.randn(1, 60, 32)
    expected = layer(tokens, (6, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = layer(tokens, (6, 10))
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() / expected.norm() < 0.02
