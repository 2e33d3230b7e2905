"""The Triton kernels against the definition, outputs and all gradients, interpreted on the CPU or on a GPU.

    TRITON_INTERPRET=1 pytest tests/ops/test_triton.py        (test_triton_interpreted.py does it)
    pytest -m gpu                                             (the same tests, compiled; larger sizes too)

All memory that is not written is NaN here, so that nothing may be read before it is written.
"""

import pytest
import torch
from scans import (
    assert_equal,
    convolution_results,
    convolutions,
    directions_problem,
    directions_results,
    outputs_and_gradients,
    problem,
)
from triton_device import DEVICE, MARKS, USABLE, on_a_gpu

from nnunet_mamba.ops import multi_directional_scan, selective_scan, self_check

pytestmark = MARKS

if USABLE:
    import triton.language as tl

    from nnunet_mamba.ops import constants, triton_conv, triton_cut, triton_launch, triton_scan


@pytest.fixture(autouse=True)
def no_plans_kept(monkeypatch):
    for module in (triton_scan, triton_conv):
        monkeypatch.setattr(module, "_plans", {})


@pytest.fixture(params=["one segment", "segments", "pieces in turn"])
def cut(request, monkeypatch):
    """The ways of cutting a call into programs, whatever the number of processors."""
    cut_into(request.param, monkeypatch)


@pytest.fixture
def pieces_in_turn(monkeypatch):
    cut_into("pieces in turn", monkeypatch)


def cut_into(way: str, monkeypatch) -> None:
    ways = {"one segment": (1, 10**6, 16), "segments": (16, 1, 16), "pieces in turn": (4, 1, 1)}
    processors, shortest, at_once = ways[way]
    monkeypatch.setattr(triton_scan, "processors", lambda device: processors)
    monkeypatch.setattr(triton_cut, "SHORTEST", shortest)
    monkeypatch.setattr(triton_launch.Kernel, "at_once", lambda kernel: at_once)
    if way == "pieces in turn":  # with 64 bits, too
        monkeypatch.setattr(triton_scan, "index_type", lambda values: tl.int64)


CASES = {
    "one direction": {"k": 1, "b": 1, "length": 45, "d": 33, "n": 5},
    "one token": {"k": 1, "b": 1, "length": 1, "d": 1, "n": 1},
    "plain": {"k": 1, "b": 1, "length": 35, "d": 8, "n": 16, "optional": False, "indices": False},
    "two groups": {"k": 1, "b": 1, "length": 33, "d": 12, "n": 3, "g": 2},
    "two directions, one u": {"k": 2, "b": 2, "length": 33, "d": 10, "n": 2, "shared": True},
    "three directions": {"k": 3, "b": 1, "length": 33, "d": 4, "n": 4, "indices": False},
    "more states than a tile": {"k": 2, "b": 1, "length": 33, "d": 5, "n": 20, "shared": True},
}

SHORT = 4  # steps of a chunk, instead of 32: an eighth of the time


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(triton_scan, "CHUNK", SHORT)
    monkeypatch.setattr(triton_cut, "CHUNK", SHORT)
    monkeypatch.setitem(constants.CHUNKS, "triton", SHORT)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scan_equals_the_reference(short_chunks, cut, case):
    """In as many chunks, whole and begun, as the cases have of 32 steps."""
    case = {**case, "length": -(-case["length"] * SHORT // 32)}
    arguments, options = directions_problem(**case, device=DEVICE)
    expected = directions_results(arguments, options, "reference")
    assert_equal(directions_results(arguments, options, "triton"), expected, 1e-13)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[] if name in ("one direction", "one token") else on_a_gpu)
        for name, case in CASES.items()
    ],
)
def test_scan_in_float32_is_as_good_as_float32(case):
    """In chunks of 32 steps, as they are."""
    arguments, options = directions_problem(**case, dtype=torch.float32, device=DEVICE)
    exact = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    expected = directions_results(exact, options, "reference")
    assert_equal(directions_results(arguments, options, "triton"), expected, 3e-6)


@on_a_gpu
@pytest.mark.parametrize(
    "case",
    [
        {"k": 2, "b": 2, "length": 3001, "d": 96, "n": 16},
        {"k": 4, "b": 2, "length": 800, "d": 200, "n": 16, "shared": True},
        {"k": 1, "b": 1, "length": 500, "d": 70, "n": 256},
        {"k": 2, "b": 1, "length": 700, "d": 512, "n": 33},
    ],
)
def test_larger_scans_equal_the_reference(case):
    arguments, options = directions_problem(**case, dtype=torch.float32, device=DEVICE)
    exact = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    expected = directions_results(exact, options, "reference")
    assert_equal(directions_results(arguments, options, "triton"), expected, 1e-5)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "case",
    [
        {"k": 1, "b": 2, "length": 70, "d": 20, "taps": 4},
        {"k": 3, "b": 1, "length": 17, "d": 34, "taps": 3, "shared": True},
        {"k": 2, "b": 2, "length": 5, "d": 3, "taps": 4, "bias": False, "indices": False},
        {"k": 1, "b": 1, "length": 1, "d": 1, "taps": 1},
    ],
)
def test_convolution_equals_the_reference(monkeypatch, case, activation):
    """In segments of 16 steps, two tiles."""
    monkeypatch.setattr(triton_conv, "SHORTEST", 2 * triton_conv.UNROLL)
    arguments, options = convolutions(**case, device=DEVICE)
    expected = convolution_results(arguments, options, "reference", activation)
    assert_equal(convolution_results(arguments, options, "triton", activation), expected, 1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32_and_rounded_once(short_chunks, pieces_in_turn, dtype):
    arguments, options = directions_problem(2, 1, SHORT + 2, 4, 18, dtype=torch.float32, device=DEVICE)
    half = {name: t.detach().to(dtype).requires_grad_() for name, t in arguments.items()}
    exact = {name: t.detach().double().requires_grad_() for name, t in half.items()}
    actual, expected = (
        directions_results(half, options, "triton"),
        directions_results(exact, options, "reference"),
    )
    for name, truth in expected.items():
        assert actual[name].dtype == dtype
        error = (actual[name].double() - truth).abs() - torch.finfo(dtype).eps / 2 * truth.abs()
        assert (error <= 1e-5 * truth.abs().max()).all(), name


def test_any_strides_give_the_same_numbers():
    arguments = {
        k: v.detach().to(DEVICE) for k, v in problem(2, 16, 21, None, 4, dtype=torch.float64).items()
    }
    expected = selective_scan(**arguments, delta_softplus=True, backend="reference")
    wide = torch.randn(2, 21, 50, dtype=torch.float64, device=DEVICE)
    strided = dict(arguments)
    for offset, name in enumerate(("u", "z")):
        wide[:, :, offset * 17 : offset * 17 + 16] = arguments[name].transpose(1, 2)
        strided[name] = wide[:, :, offset * 17 : offset * 17 + 16].transpose(1, 2)
    strided["delta"] = arguments["delta"].transpose(0, 2).contiguous().transpose(0, 2)
    strided["B"] = arguments["B"].transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(selective_scan(**strided, delta_softplus=True, backend="triton"), expected)
    same_b = arguments | {"B": arguments["B"][:1].expand(2, -1, -1)}
    repeated, expected = (selective_scan(**same_b, backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(repeated, expected)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z"])
def test_nan_in_gives_nan_out_from_there_on(name):
    arguments = {k: v.detach().clone().to(DEVICE) for k, v in problem(1, 3, 20, None, 2).items()}
    sequence = arguments[name].dim() == 3
    arguments[name][(0, 1, 10) if sequence else (1, *[0] * (arguments[name].dim() - 1))] = torch.nan
    y = selective_scan(**arguments, delta_softplus=True, backend="triton")[0]
    assert y[1, 10].isnan()
    if sequence:
        assert y[:, :10].isfinite().all()
    if name not in ("B", "C"):
        assert y[[0, 2]].isfinite().all()


def test_softplus_is_right_over_the_whole_range():
    """y = delta u B C with A = 0 at the first token, so y is softplus itself, and its slope the sigmoid."""
    x = torch.cat([torch.linspace(-87, 87, 41), torch.tensor([-1e-7, 0.0, 1e-7])]).to(DEVICE).requires_grad_()
    ones = torch.ones(1, len(x), 1, device=DEVICE)
    B = torch.ones(1, 1, 1, device=DEVICE)
    zero = torch.zeros(len(x), 1, device=DEVICE)
    y = selective_scan(ones, x.view(1, -1, 1), zero, B, B, delta_softplus=True, backend="triton").flatten()
    exact = x.detach().double()
    torch.testing.assert_close(
        y.double(), torch.nn.functional.softplus(exact, threshold=1000), rtol=2e-5, atol=1e-37
    )
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.double(), torch.sigmoid(exact), rtol=2e-5, atol=1e-37)


def test_two_equal_calls_give_equal_bits(short_chunks, pieces_in_turn):
    arguments, options = directions_problem(
        2, 1, SHORT + 2, 8, 3, shared=True, dtype=torch.float32, device=DEVICE
    )
    first, second = (directions_results(arguments, options, "triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_compiles_without_a_graph_break():
    arguments, options = directions_problem(2, 1, 4, 4, 3, dtype=torch.float64, device=DEVICE)

    def scan(u):
        return multi_directional_scan(**(arguments | {"u": u}), **options, backend="triton").square().sum()

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    expected, actual = scan(arguments["u"]), compiled(arguments["u"])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, arguments["u"])[0] for value in (actual, expected))
    )


def test_nothing_is_kept_for_backward_where_no_gradient_is_wanted(short_chunks):
    arguments, options = directions_problem(1, 1, 2 * SHORT, 4, 2, dtype=torch.float32, device=DEVICE)
    rest = (None, None, None, options["indices"], True, [False])
    call = [arguments[name].detach() for name in ("u", "delta", "A", "B", "C")]
    scan = torch.ops.nnunet_mamba.selective_scan.default
    assert scan(*call, *rest, False, "triton")[1].numel() == 0
    assert scan(*call, *rest, True, "triton")[1].shape == (1, 1, 2, 2, 4)


SMALL = (self_check.KernelCase(2, 1, 9, 8, 4), self_check.KernelCase(2, 1, 9, 8, taps=4, permuted=True))


@pytest.mark.parametrize("cases", [SMALL, pytest.param(self_check.MANY, marks=on_a_gpu)], ids=["few", "many"])
def test_the_self_check_finds_nothing(cases):
    assert self_check.compare(torch.device(DEVICE), cases) == {"differ": [], "fail": []}


def test_the_self_check_finds_a_broken_kernel(monkeypatch):
    """One that is handed C for B where it computes gradients."""
    launch = triton_scan.LaunchPlan._launch

    def broken(plan, phase, cut, piece, values, **outputs):
        if phase == "backward":
            values["B"] = values["C"]
        launch(plan, phase, cut, piece, values, **outputs)

    monkeypatch.setattr(triton_scan.LaunchPlan, "_launch", broken)
    found = self_check.compare(torch.device(DEVICE), SMALL)
    (fault,) = found["differ"]
    assert "du off by" in fault
    assert "y off by" not in fault
    assert found["fail"] == []


@on_a_gpu
def test_more_than_two_to_the_31_elements():
    length = 2**25 + 77
    u = torch.zeros(1, length, 64, dtype=torch.float16, device=DEVICE).transpose(1, 2)
    u[:, :, -1] = 1
    B = torch.ones(1, 1, 1, dtype=torch.float16, device=DEVICE).expand(1, 1, length)
    y = selective_scan(u, torch.ones_like(u), -torch.ones(64, 1, device=DEVICE), B, B, backend="triton")
    assert y[:, :, -1].eq(1).all()
    assert not y[:, :, :-1].any()


@on_a_gpu
def test_matches_mamba_ssm():
    from nnunet_mamba.ops import available_backends

    if available_backends()["mamba_ssm"] != "ok":
        pytest.skip(available_backends()["mamba_ssm"])
    arguments = {k: v.detach().to(DEVICE).requires_grad_() for k, v in problem(2, 64, 700, None, 16).items()}
    dy = torch.randn(2, 64, 700, device=DEVICE)
    for reverse in (False, True):
        options = {"delta_softplus": True, "reverse": reverse}
        ours, theirs = (
            outputs_and_gradients(arguments, dy, backend=b, **options) for b in ("triton", "mamba_ssm")
        )
        assert_equal(ours, theirs, 1e-4)
