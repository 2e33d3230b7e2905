"""The mLSTM layer: against its code's outputs, against its quadratic form written out, by laws.

The golden file holds cells (q, k, v and gates in, h and gradients out) and layers. Its sample has the first
item and head of each cell and the layers' outputs; inputs of layers follow from their seeds.

    PYTHONPATH=tests python tests/blocks/test_mlstm.py       write the sample
"""

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import FULL, SAMPLES, fill_mixers

from nnunet_mamba.blocks.mlstm import MLSTM, BlockDiagonal, OffsetLayerNorm, matrix_memory, running_maximum
from nnunet_mamba.scan_order import scan_order

GOLDEN, SAMPLE = FULL / "unit_mlstm.npz", SAMPLES / "units" / "unit_mlstm.npz"
ARRAYS = dict(np.load(GOLDEN if GOLDEN.is_file() else SAMPLE))
CASES = json.loads(str(ARRAYS["cases_json"]))
SAMPLED = re.compile(r"cases_json|cell_.*/([qkvifw]|h_fp64|grad_[if]_fp64)$|.*/(y|grad_x)_fp64$")


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name]).double()


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def quadratic_memory(q, k, v, i, f):
    """mLSTM's parallel form (xLSTM, arXiv:2405.04517), every token against every earlier one."""
    q, k, v, i, f = (t.transpose(1, 2) for t in (q, k, v, i, f))  # heads before tokens
    total = F.logsigmoid(f).cumsum(-1)
    exponents = total[..., :, None] - total[..., None, :] + i[..., None, :]
    exponents = exponents.masked_fill(torch.ones_like(exponents).triu(1).bool(), -torch.inf)
    m = exponents.amax(-1, keepdim=True)
    weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 * (exponents - m).exp()
    below = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-m).exp()) + 1e-6
    return (weights @ v / below).transpose(1, 2)


def inputs(length: int, dtype=torch.float64, heads: int = 3, p: int = 5, gates: float = 2.0):
    """Return q, k, v and gates for two items; gates of a standard deviation of `gates`."""
    torch.manual_seed(length)
    qkv = [torch.randn(2, length, heads, p, dtype=dtype, requires_grad=True) for _ in range(3)]
    both = [(gates * torch.randn(2, length, heads, dtype=dtype)).requires_grad_() for _ in range(2)]
    return [*qkv, *both]


def outputs_and_gradients(memory, tensors) -> list[torch.Tensor]:
    h = memory(*tensors)
    weights = random(0, *h.shape).to(h.dtype)
    return [h, *torch.autograd.grad((h * weights).sum(), tensors)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["level"] == "cell"])
def test_the_memory_equals_its_code(name):
    tensors = {key: golden(f"{name}/{key}").transpose(1, 2) for key in "qkvif"}  # tokens before heads
    arguments = [t.squeeze(-1) if key in "if" else t for key, t in tensors.items()]
    h = matrix_memory(*(t.requires_grad_() for t in arguments)).transpose(1, 2)
    assert relative(h, golden(f"{name}/h_fp64")) < 1e-10
    gradients = torch.autograd.grad((h * golden(f"{name}/w")).sum(), arguments)
    for key, gradient in zip("qkvif", gradients, strict=True):
        if f"{name}/grad_{key}_fp64" in ARRAYS:
            theirs = golden(f"{name}/grad_{key}_fp64").transpose(1, 2).reshape(gradient.shape)
            assert relative(gradient, theirs) < 1e-10, key


class Block(torch.nn.Module):
    """The layer with its norm and its residual."""

    def __init__(self, layer: MLSTM):
        super().__init__()
        self.layer, self.norm = layer, OffsetLayerNorm(layer.proj_down.out_features)

    def forward(self, tokens, grid):
        return tokens + self.layer(self.norm(tokens), grid)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["level"] == "layer"])
def test_the_layer_equals_its_code(name):
    """Values, gradients, names and numbers of parameters."""
    case = CASES[name]
    weights = {key: fill_mixers(key, shape, strong=True) for key, shape in case["params"].items()}
    ours = {re.sub(r"mlstm_cell\.|(?<=conv1d\.)conv\.", "", key): value for key, value in weights.items()}
    layer = MLSTM(case["dim"], scan_order("-HW" if "bot_right" in case["direction"] else "HW", 2))
    unit = Block(layer).double() if case["cls"] == "ViLBlock" else layer.double()
    unit.load_state_dict(ours)
    shape = ARRAYS[f"{name}/y_fp64"].shape
    x = random(case["input_seed"], *shape).requires_grad_()
    y = unit(x, (1, shape[1]))
    assert relative(y, golden(f"{name}/y_fp64")) < 1e-10
    (y * random(case["input_seed"] + 1, *shape)).sum().backward()
    assert relative(x.grad, golden(f"{name}/grad_x_fp64")) < 1e-10
    gradients = {key: parameter.grad for key, parameter in unit.named_parameters()}
    for key, renamed in zip(weights, ours, strict=True):
        assert gradients[renamed].norm().item() == pytest.approx(case["grad_norms"][key], rel=1e-8), key
        if f"{name}/grad_param/{key}_fp64" in ARRAYS:
            assert relative(gradients[renamed], golden(f"{name}/grad_param/{key}_fp64")) < 1e-9, key


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 131])
@pytest.mark.parametrize("gates", [1, 12])
def test_the_linear_form_equals_the_quadratic_one(length, gates):
    tensors = inputs(length, gates=gates)
    ours = outputs_and_gradients(matrix_memory, tensors)
    for own, written_out in zip(ours, outputs_and_gradients(quadratic_memory, tensors), strict=True):
        torch.testing.assert_close(own, written_out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 37])
def test_the_running_maximum_for_onnx_is_cummax(length):
    x = random(length, 3, length)
    assert torch.equal(running_maximum(x), x.cummax(-1).values)


def test_float32_follows_float64():
    tensors = inputs(150)
    exact = outputs_and_gradients(matrix_memory, tensors)
    rounded = [t.detach().float().requires_grad_() for t in tensors]
    ours = outputs_and_gradients(matrix_memory, rounded)
    assert all(t.dtype == torch.float32 for t in ours)
    for own, true in zip(ours, exact, strict=True):
        assert relative(own, true) < 1e-4


def test_half_precision_rounds_projections_alone():
    torch.manual_seed(0)
    layer, tokens = MLSTM(32, scan_order("bi", 2)), torch.randn(1, 60, 32)
    expected = layer(tokens, (6, 10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = layer(tokens, (6, 10))
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize("i", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.parametrize("f", [-1000.0, -100.0, 100.0, 1000.0])
def test_gates_of_hundreds_give_finite_values_and_gradients(i, f):
    """exp(100) is infinite in float32."""
    q, k, v, *_ = inputs(9, torch.float32)
    gates = [torch.full((2, 9, 3), gate, requires_grad=True) for gate in (i, f)]
    assert all(t.isfinite().all() for t in outputs_and_gradients(matrix_memory, [q, k, v, *gates]))


def test_what_is_kept_for_backward_grows_with_the_tokens_alone():
    def kept(n_tokens: int) -> int:
        sizes = {}
        layer, tokens = MLSTM(8, scan_order("bi", 2)), torch.randn(1, n_tokens, 8)
        hooks = (
            lambda t: sizes.__setitem__(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) or t,
            lambda t: t,
        )
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            y = layer(tokens, (1, n_tokens))
        assert y.requires_grad
        return sum(sizes.values())

    assert kept(1024) - kept(768) <= 1.01 * (kept(768) - kept(512))


def random_layer(order: str, ndim: int) -> MLSTM:
    """Return a layer of 8 features in float64 whose gates see their tokens, unlike at the start."""
    torch.manual_seed(0)
    layer = MLSTM(8, scan_order(order, ndim)).double()
    for name, parameter in layer.named_parameters():
        if "gate" in name:
            torch.nn.init.normal_(parameter, std=20)
    return layer


def test_a_reversed_and_permuted_direction_is_the_turned_volume():
    plain, turned = random_layer("DHW", 3), random_layer("-WDH", 3)
    turned.load_state_dict(plain.state_dict())
    tokens = torch.randn(1, 24, 8, dtype=torch.float64)

    def turn(t, grid, axes):
        return t.view(1, *grid, 8).permute(0, *axes, 4).reshape(1, 24, 8)

    expected = plain(turn(tokens, (2, 3, 4), (3, 1, 2)).flip(1), (4, 2, 3)).flip(1)
    torch.testing.assert_close(turned(tokens, (2, 3, 4)), turn(expected, (4, 2, 3), (2, 3, 1)))


def test_two_directions_share_gate_and_projections_and_add_up():
    both = random_layer("bi", 2)
    one = {key: value for key, value in both.state_dict().items() if not key.startswith("further")}
    own = {k.removeprefix("further.0."): v for k, v in both.state_dict().items() if k.startswith("further")}
    first, second = random_layer("HW", 2), random_layer("-HW", 2)
    first.load_state_dict(one)
    second.load_state_dict(one | own)
    tokens = torch.randn(2, 15, 8, dtype=torch.float64)
    torch.testing.assert_close(both(tokens, (3, 5)), first(tokens, (3, 5)) + second(tokens, (3, 5)))


def test_slices_are_sequences_of_their_own():
    slices, whole = random_layer("slices", 3), random_layer("DHW", 3)
    whole.load_state_dict(slices.state_dict())
    tokens = torch.randn(2, 24, 8, dtype=torch.float64)
    expected = torch.cat([whole(part, (1, 2, 4)) for part in tokens.split(8, 1)], 1)
    torch.testing.assert_close(slices(tokens, (3, 2, 4)), expected)


@pytest.mark.parametrize("features, block", [(24, 4), (10, 2), (6, 2)])
def test_block_diagonal_maps_blocks_to_themselves(features, block):
    layer = BlockDiagonal(features, block).double()
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, 7, features, dtype=torch.float64)
    expected = F.linear(x, torch.block_diag(*layer.weight))
    torch.testing.assert_close(layer(x).flatten(2), expected)


def test_the_norm_is_layer_norm_of_each_part():
    norm, x = OffsetLayerNorm(12, 3), torch.randn(2, 5, 12)
    torch.nn.init.normal_(norm.weight)
    parts = [
        F.layer_norm(part, (4,), 1 + w) for part, w in zip(x.split(4, -1), norm.weight.split(4), strict=True)
    ]
    torch.testing.assert_close(norm(x), torch.cat(parts, -1))


def test_a_layer_begins_as_the_paper_says():
    """Gates that see nothing, memories of 21 tokens and more, and a unit skip."""
    torch.manual_seed(0)
    layer = MLSTM(320, scan_order("uni", 3))
    assert layer.igate.weight.abs().max() == layer.fgate.weight.abs().max() == 0
    assert layer.fgate.bias.tolist() == [3, 4, 5, 6]
    assert layer.learnable_skip.unique().tolist() == [1]
    for weight in (layer.proj_up.weight, layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight):
        assert weight.std().item() == pytest.approx((2 / (5 * 320)) ** 0.5, rel=0.05)
    assert layer.proj_down.weight.std().item() == pytest.approx(2 / 320**0.5, rel=0.05)


@pytest.mark.parametrize("features, heads", [(16, 4), (18, 2), (25, 2), (210, 2)])
def test_heads_are_four_or_two(features, heads):
    layer = MLSTM(features, scan_order("uni", 2))
    assert layer.heads == heads
    assert layer.q_proj.weight.shape == (2 * features // heads, heads, heads)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"32 = 2 x 16 .* 5 heads"):
        MLSTM(16, scan_order("uni", 2), heads=5)


def test_it_compiles_as_one_graph():
    layer, tokens = MLSTM(8, scan_order("bi", 2)), torch.randn(1, 12, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, (3, 4)), layer(tokens, (3, 4)))


if __name__ == "__main__":
    sample = {key: array for key, array in np.load(GOLDEN).items() if SAMPLED.match(key)}
    sample = {key: a[:1, :1] if key.startswith("cell") else a for key, a in sample.items()}
    np.savez_compressed(SAMPLE, **sample)
