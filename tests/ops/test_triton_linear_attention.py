"""The Triton kernels of linear attention against the definition, outputs and all gradients; run as
test_triton.py, whose docstring says how."""

import pytest
import torch
from scans import assert_equal, directions_options
from triton_device import DEVICE, MARKS, USABLE, on_a_gpu

from nnunet_mamba.ops import linear_attention, multi_directional_linear_attention, self_check
from nnunet_mamba.ops.self_check import KernelCase

pytestmark = MARKS

if USABLE:
    import triton.language as tl

    from nnunet_mamba.ops import constants, triton_linear_attention


@pytest.fixture(autouse=True)
def no_plans_kept(monkeypatch):
    monkeypatch.setattr(triton_linear_attention, "_plans", {})


@pytest.fixture
def small_blocks(monkeypatch):
    """Chunks of 32 steps in blocks of 16, with 64 bits, and heads shared by two programs."""
    monkeypatch.setattr(triton_linear_attention, "CHUNK", 32)
    monkeypatch.setitem(constants.LINEAR_CHUNKS, "triton", 32)
    monkeypatch.setattr(triton_linear_attention, "BLOCK", 16)
    monkeypatch.setattr(triton_linear_attention, "index_type", lambda values: tl.int64)
    monkeypatch.setattr(triton_linear_attention, "processors", lambda device: 1)


def problem(k, b, length, h, p, n, *, g=1, shared=False, indices=True, decay="some", dtype=torch.float64):
    """Random arguments of `multi_directional_linear_attention` that need gradients, and its options."""
    torch.manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=dtype, device=DEVICE)

    log_decay = -random(k, b, length, h).abs()
    if decay == "none":
        log_decay *= 0
    if decay == "all":
        log_decay[..., ::7, :] = -1e4
    arguments = {
        "values": random(1 if shared else k, b, length, h, p),
        "log_decay": log_decay,
        "keys": random(k, b, length, g, n),
        "queries": random(k, b, length, g, n),
    }
    arguments = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    return arguments, directions_options(k, length, indices, DEVICE)


def results(arguments, options, backend):
    """Output and gradients of an attention, for the same random gradient of y."""
    y = multi_directional_linear_attention(**arguments, **options, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).mul(64).round().div(64).to(y)
    grads = torch.autograd.grad(y, list(arguments.values()), dy)
    return dict(zip(("y", *arguments), (y.detach(), *grads), strict=True))


def in_float64(arguments):
    return {name: t.detach().double().requires_grad_() for name, t in arguments.items()}


CASES = {
    "blocks of all axes": {"k": 1, "b": 1, "length": 50, "h": 1, "p": 17, "n": 18, "indices": False},
    "two groups": {"k": 1, "b": 1, "length": 20, "h": 4, "p": 2, "n": 3, "g": 2},
    "two directions, one sequence of values": {
        **{"k": 2, "b": 1, "length": 35, "h": 2, "p": 3, "n": 2},
        "shared": True,
    },
    "three directions": {"k": 3, "b": 2, "length": 9, "h": 1, "p": 3, "n": 2, "indices": False},
    "one token": {"k": 1, "b": 1, "length": 1, "h": 1, "p": 1, "n": 1},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_attention_equals_the_reference(small_blocks, case):
    arguments, options = problem(**case)
    expected = results(arguments, options, "reference")
    assert_equal(results(arguments, options, "triton"), expected, 1e-13)


@pytest.mark.parametrize("decay", ["none", "all"])
def test_attention_in_float32_is_as_good_as_float32(decay):
    """In whole chunks, also where some steps forget all and others have to remember."""
    arguments, options = problem(1, 1, 70, 1, 5, 7, decay=decay, dtype=torch.float32)
    expected = results(in_float64(arguments), options, "reference")
    assert_equal(results(arguments, options, "triton"), expected, 3e-6)


@on_a_gpu
@pytest.mark.parametrize(
    "case",
    [
        {"k": 2, "b": 2, "length": 3001, "h": 8, "p": 80, "n": 32},
        {"k": 4, "b": 1, "length": 700, "h": 4, "p": 64, "n": 128, "g": 2, "shared": True},
        {"k": 1, "b": 1, "length": 500, "h": 2, "p": 256, "n": 256},
    ],
)
@pytest.mark.parametrize("decay", ["some", "none", "all"])
def test_larger_attentions_equal_the_reference(case, decay):
    arguments, options = problem(**case, decay=decay, dtype=torch.float32)
    expected = results(in_float64(arguments), options, "reference")
    assert_equal(results(arguments, options, "triton"), expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32_and_rounded_once(small_blocks, dtype):
    arguments, options = problem(2, 1, 20, 1, 3, 2, shared=True, dtype=torch.float32)
    half = {name: t.detach().to(dtype).requires_grad_() for name, t in arguments.items()}
    actual, expected = results(half, options, "triton"), results(in_float64(half), options, "reference")
    for name, truth in expected.items():
        assert actual[name].dtype == dtype
        error = (actual[name].double() - truth).abs() - torch.finfo(dtype).eps / 2 * truth.abs()
        assert (error <= 1e-5 * truth.abs().max()).all(), name


def test_any_strides_give_the_same_numbers():
    """Values are a slice of wider rows, as in Mamba-2; all batch items have the same keys."""
    arguments, _ = problem(1, 2, 20, 2, 3, 4)
    values, log_decay, keys, queries = (t.detach()[0] for t in arguments.values())
    wide = torch.randn(2, 20, 11, dtype=values.dtype, device=DEVICE)
    wide[:, :, 2:8] = values.flatten(2)
    keys = keys[:1].expand(2, -1, -1, -1)
    of_last = queries.transpose(1, 3).contiguous().transpose(1, 3)
    expected = linear_attention(values, log_decay, keys, queries, backend="reference")
    for own in (wide[:, :, 2:8].unflatten(2, (2, 3)), values.transpose(2, 3).contiguous().transpose(2, 3)):
        actual = linear_attention(own, log_decay.mT.contiguous().mT, keys, of_last, backend="triton")
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["values", "log_decay", "keys", "queries"])
def test_nan_in_gives_nan_out_in_its_own_sequence_alone(name):
    arguments, _ = problem(1, 2, 20, 1, 2, 2, indices=False)
    arguments = {own: t.detach()[0].clone() for own, t in arguments.items()}
    arguments[name][1, 10] = torch.nan
    y = linear_attention(**arguments, backend="triton")
    assert y[1, 10].isnan().all()
    assert y[0].isfinite().all()


def test_two_equal_calls_give_equal_bits(small_blocks):
    arguments, options = problem(2, 1, 9, 2, 3, 2, shared=True, dtype=torch.float32)
    first, second = (results(arguments, options, "triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


SMALL = (KernelCase(2, 1, 9, 8, 4, heads=2, permuted=True),)


@pytest.mark.parametrize("cases", [SMALL, pytest.param(self_check.MANY, marks=on_a_gpu)], ids=["few", "many"])
def test_the_self_check_finds_nothing(cases):
    assert self_check.compare(torch.device(DEVICE), cases) == {"differ": [], "fail": []}


def test_the_self_check_finds_a_broken_kernel(monkeypatch):
    """One that looks at later steps where it computes the gradient of the queries."""
    role = triton_linear_attention.Role("keys", "values", "dy", "states", backward=True, of_groups=True)
    monkeypatch.setitem(triton_linear_attention.ROLES, "dqueries", role)
    (fault,) = self_check.compare(torch.device(DEVICE), SMALL)["differ"]
    assert "dqueries off by" in fault
    assert "dkeys off by" not in fault
