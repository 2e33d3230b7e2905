"""Every backend against the definition, the definition against numbers worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from scans import TENSORS, outputs_and_gradients, problem

from nnunet_mamba.ops import selective_scan
from nnunet_mamba.ops.backends import available_backends

FAST = ["numba", "torch"]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("b", "d", "length", "g", "n"),
    [
        (2, 40, 270, 1, 16),
        (1, 96, 33, 2, 5),
        (3, 7, 5, None, 3),
        (1, 1, 1, 1, 1),
        (2, 130, 64, None, 16),
        (1, 6, 40, 3, 70),
    ],
)
def test_matches_the_reference_in_outputs_and_all_gradients(backend, dtype, reverse, b, d, length, g, n):
    arguments = problem(b, d, length, g, n, dtype=dtype)
    dy = torch.randn(b, d, length, dtype=dtype)
    options = {"delta_softplus": True, "reverse": reverse}
    expected = outputs_and_gradients(arguments, dy, backend="reference", **options)
    actual = outputs_and_gradients(arguments, dy, backend=backend, **options)
    bound = 3e-6 if dtype == torch.float32 else 1e-13
    for name, truth in expected.items():
        error = (actual[name] - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error < bound, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 15, 17, 33, 256])
@pytest.mark.parametrize(("d", "length"), [(16, 66), (48, 31)])
def test_numba_matches_the_reference_for_any_remainder_of_states_channels_and_steps(dtype, n, d, length):
    """One vector, an odd number of them; states in whole tiles and beyond; a last chunk of a few steps."""
    arguments = problem(1, d, length, 1, n, dtype=dtype)
    dy = torch.randn(1, d, length, dtype=dtype)
    expected, actual = (
        outputs_and_gradients(arguments, dy, backend=name, delta_softplus=True)
        for name in ("reference", "numba")
    )
    bound = 3e-6 if dtype == torch.float32 else 1e-13
    for name, truth in expected.items():
        error = (actual[name] - truth).abs().max() / truth.abs().max()
        assert error < bound, f"{name}: relative error {error:.1e}"


def test_what_one_call_leaves_in_memory_does_not_reach_the_next():
    """A ragged block after a whole one that held NaN, in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    arguments = {k: v.detach().clone() for k, v in problem(2, 70, 40, None, 5).items()}
    arguments["u"][0, :64] = torch.nan
    arguments = {k: v.requires_grad_() for k, v in arguments.items()}
    try:
        actual = outputs_and_gradients(arguments, torch.ones(2, 70, 40), delta_softplus=True, backend="numba")
    finally:
        torch.set_num_threads(before)
    assert actual["y"][0, :64].isnan().all()
    assert actual["y"][0, 64:].isfinite().all()
    for name in ("y", "u", "delta", "B", "C", "z"):
        assert actual[name][1].isfinite().all(), name


@pytest.mark.parametrize("backend", FAST)
def test_matches_the_reference_without_the_optional_arguments(backend):
    arguments = problem(2, 24, 50, None, 4, dtype=torch.float64, optional=False)
    dy = torch.randn(2, 24, 50, dtype=torch.float64)
    expected, actual = (outputs_and_gradients(arguments, dy, backend=name) for name in ("reference", backend))
    for name, truth in expected.items():
        torch.testing.assert_close(actual[name], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_permuted_scan_equals_scanning_the_permuted_sequence(backend, reverse):
    arguments = problem(2, 20, 300, None, 8, dtype=torch.float64)
    order = torch.randperm(300)
    dy = torch.randn(2, 20, 300, dtype=torch.float64)
    actual = outputs_and_gradients(
        arguments, dy, backend=backend, delta_softplus=True, reverse=reverse, indices=order.to(torch.int32)
    )
    steps = order.flip(0) if reverse else order
    sequences = {k: v[..., steps] if k in ("u", "delta", "B", "C", "z") else v for k, v in arguments.items()}
    y = selective_scan(**sequences, delta_softplus=True, backend="reference")
    expected = torch.autograd.grad(y, list(arguments.values()), dy[..., steps])
    torch.testing.assert_close(actual["y"][..., steps], y)
    for name, truth in zip(arguments, expected, strict=True):
        torch.testing.assert_close(actual[name], truth)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_constant_input_has_a_geometric_sum_for_answer(backend):
    """u = delta = B = C = 1, A = -1/2, D = 0:  y_t = (1 - r**(t+1)) / (1 - r), r = exp(-1/2)."""
    ones = torch.ones(1, 1, 50)
    y = selective_scan(ones, ones, torch.tensor([[-0.5]]), ones, ones, backend=backend)
    r = math.exp(-0.5)
    expected = (1 - r ** torch.arange(1.0, 51.0)) / (1 - r)
    torch.testing.assert_close(y.flatten(), expected)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_two_tokens_by_hand(backend):
    """h_0 = 2*3*5 = 30, y_0 = 30*7; h_1 = exp(-2 ln 2) 30 + 1*1*1 = 8.5, y_1 = 8.5*2 + 10*1, gated by silu(0)
    = 0."""
    u, delta = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[2.0, 2.0]]])
    B, C = torch.tensor([[[5.0, 0.5]]]), torch.tensor([[[7.0, 2.0]]])
    A, D = torch.tensor([[-math.log(2.0)]]), torch.tensor([10.0])
    y = selective_scan(u, delta, A, B, C, D, backend=backend)
    torch.testing.assert_close(y, torch.tensor([[[30 * 7 + 30.0, 8.5 * 2 + 10.0]]]))
    gated = selective_scan(u, delta, A, B, C, D, z=torch.zeros_like(u), backend=backend)
    assert torch.equal(gated, torch.zeros_like(u))


@pytest.mark.parametrize("backend", FAST)
def test_any_strides_give_the_same_numbers(backend):
    """Channels last, channels first, slices of a wider tensor and broadcast B, C."""
    arguments = problem(2, 16, 37, None, 4, dtype=torch.float64)
    dense = {k: v.detach() for k, v in arguments.items()}
    expected = selective_scan(**dense, delta_softplus=True, backend="reference")
    wide = torch.randn(2, 37, 50, dtype=torch.float64)
    strided = dict(dense)
    for offset, name in enumerate(("u", "z")):
        wide[:, :, offset * 17 : offset * 17 + 16] = dense[name].transpose(1, 2)
        strided[name] = wide[:, :, offset * 17 : offset * 17 + 16].transpose(1, 2)
    strided["B"] = dense["B"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["delta"] = dense["delta"].transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(selective_scan(**strided, delta_softplus=True, backend=backend), expected)
    same_b = dense | {"B": dense["B"][:1].expand(2, -1, -1)}
    repeated, expected = (
        selective_scan(**same_b, delta_softplus=True, backend=b) for b in (backend, "reference")
    )
    torch.testing.assert_close(repeated, expected)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32_and_comes_back_as_it_was(backend, dtype):
    arguments = {k: v.detach() for k, v in problem(1, 8, 2000, None, 4).items()}
    half = {k: v.to(dtype) if k in ("u", "delta", "B", "C", "z") else v for k, v in arguments.items()}
    y = selective_scan(**half, delta_softplus=True, backend=backend)
    assert y.dtype == dtype
    exact = selective_scan(
        **{k: v.double() for k, v in half.items()}, delta_softplus=True, backend="reference"
    )
    one_rounding = torch.finfo(dtype).eps / 2 + 1e-5
    assert ((y.double() - exact).abs() <= one_rounding * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("backend", FAST)
def test_autocast_changes_nothing(backend):
    arguments, dy = problem(1, 8, 100, None, 4), torch.randn(1, 8, 100)
    plain = outputs_and_gradients(arguments, dy, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = outputs_and_gradients(arguments, dy, delta_softplus=True, backend=backend)
    for name, value in plain.items():
        assert cast[name].dtype == torch.float32
        assert torch.equal(value, cast[name]), name


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z"])
def test_nan_in_gives_nan_out_from_there_on(backend, name):
    arguments = {k: v.detach().clone() for k, v in problem(1, 3, 40, None, 2).items()}
    sequence = arguments[name].dim() == 3
    arguments[name][(0, 1, 20) if sequence else (1, *[0] * (arguments[name].dim() - 1))] = torch.nan
    y = selective_scan(**arguments, delta_softplus=True, backend=backend)[0]
    assert y[1, 20].isnan()
    if sequence:
        assert y[:, :20].isfinite().all()
    if name not in ("B", "C"):
        assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("backend", FAST)
def test_extreme_steps_neither_overflow_nor_lose_the_input(backend):
    """A step of 1e4 forgets everything; a step of 1e-8 changes the state by its own amount only."""
    u, B = torch.ones(1, 1, 3), torch.ones(1, 1, 3)
    A = torch.tensor([[-16.0]])
    forgetful = selective_scan(u, torch.full_like(u, 1e4), A, B, B, backend=backend)
    torch.testing.assert_close(forgetful, torch.full_like(u, 1e4))
    slow = selective_scan(u, torch.full_like(u, 1e-8), A, B, B, backend=backend)
    torch.testing.assert_close(slow.flatten(), torch.tensor([1e-8, 2e-8, 3e-8]))


@pytest.mark.parametrize("backend", FAST)
def test_softplus_is_right_over_the_whole_range(backend):
    """y = delta u B C with A = 0 at the first token, so y is softplus itself, and its slope the sigmoid."""
    x = (
        torch.cat([torch.linspace(-100, 100, 801), torch.tensor([-1e-7, 0.0, 1e-7])])
        .double()
        .requires_grad_()
    )
    delta = x.view(-1, 1, 1)
    ones = torch.ones(len(x), 1, 1, dtype=torch.float64)
    for cast in (torch.float64, torch.float32):
        y = selective_scan(
            *(t.to(cast) for t in (ones, delta, torch.zeros(1, 1, dtype=torch.float64), ones, ones)),
            delta_softplus=True,
            backend=backend,
        )
        rtol = 1e-9 if cast == torch.float64 else 2e-5  # torch's softplus is linear above 20
        torch.testing.assert_close(y.flatten().double(), F.softplus(x, threshold=1000), rtol=rtol, atol=1e-30)
        (slope,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(slope, torch.sigmoid(x), rtol=rtol, atol=1e-30)


@pytest.mark.parametrize("backend", FAST)
def test_gradcheck_in_float64(backend):
    arguments = problem(1, 3, 6, None, 2, dtype=torch.float64)

    def scan(*tensors):
        return selective_scan(*tensors, True, reverse=True, backend=backend)

    assert torch.autograd.gradcheck(scan, [arguments[name] for name in TENSORS])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing_but_the_order_of_two_sums(threads):
    before = torch.get_num_threads()
    arguments = problem(2, 96, 70, None, 16)
    dy = torch.randn(2, 96, 70)
    expected = outputs_and_gradients(arguments, dy, backend="reference", delta_softplus=True)
    torch.set_num_threads(threads)
    try:
        first, second = (
            outputs_and_gradients(arguments, dy, backend="numba", delta_softplus=True) for _ in range(2)
        )
    finally:
        torch.set_num_threads(before)
    for name, truth in expected.items():
        assert torch.equal(first[name], second[name]), f"{name} differs between two equal calls"
        torch.testing.assert_close(first[name], truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_nothing_is_kept_for_backward_where_no_gradient_is_wanted(backend):
    arguments = problem(1, 4, 64, None, 2)
    with torch.inference_mode():
        assert not selective_scan(**arguments, backend=backend).requires_grad
    scan = torch.ops.nnunet_mamba.selective_scan.default
    call = [t.detach() for t in operator_arguments(arguments)]
    rest = (None, None, None, None, False, [False])
    assert scan(*call[:5], *rest, False, backend)[1].numel() == 0
    assert scan(*call[:5], *rest, True, backend)[1].numel() > 0


def operator_arguments(arguments):
    """u, delta, A, B, C and the optional ones as the operator has them: channels last, for one direction."""
    tensors = [arguments[name].detach() for name in TENSORS]
    tensors = [t.transpose(-1, -2) if t.dim() == 3 else t for t in tensors]
    u, delta, A, B, C, D, z, bias = tensors
    batched = (u[None], delta[None], A[None], B[None, :, None], C[None, :, None], D[None], z, bias[None])
    return [t.detach().requires_grad_() for t in batched]


@pytest.mark.parametrize("backend", FAST)
def test_opcheck(backend):
    arguments = problem(1, 5, 40, None, 3)
    call = operator_arguments(arguments)
    indices = torch.randperm(40).to(torch.int32)[None]
    scan = torch.ops.nnunet_mamba.selective_scan.default
    torch.library.opcheck(scan, (*call, indices, True, [False], True, backend))
    torch.library.opcheck(scan, (*call[:5], None, None, None, None, False, [True], True, backend))


@pytest.mark.parametrize("backend", FAST)
def test_second_derivatives_are_refused(backend):
    arguments = problem(1, 5, 40, None, 3)
    y = selective_scan(**arguments, backend=backend)
    (grad,) = torch.autograd.grad(y.sum(), arguments["u"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"Second derivatives .* are not implemented"):
        torch.autograd.grad(grad.sum(), arguments["A"])


@pytest.mark.parametrize("backend", FAST)
def test_compiles_without_a_graph_break(backend):
    arguments = problem(2, 8, 40, None, 4)

    def scan(u):
        return selective_scan(**(arguments | {"u": u}), delta_softplus=True, backend=backend).square().sum()

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    expected, actual = scan(arguments["u"]), compiled(arguments["u"])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, arguments["u"])[0] for value in (actual, expected))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 4)}, r"Expected u \(b, d, l\)"),
        ({"delta": torch.ones(1, 4, 5)}, r"delta must be \(2, 4, 5\)"),
        ({"A": torch.ones(3, 2)}, r"A must be \(4, 2\)"),
        ({"B": torch.ones(2, 3, 2, 5)}, "cannot be split into the 3 groups"),
        ({"C": torch.ones(2, 3, 5)}, r"C must be \(2, 1, 2, 5\)"),
        ({"D": torch.ones(5)}, r"D must be \(4,\)"),
        ({"A": torch.ones(4, 2, dtype=torch.complex64)}, "A is complex"),
        ({"indices": torch.arange(5)}, r"indices must be int32 \(5,\), got torch.int64"),
        (
            {"u": torch.ones(2, 4, 5, dtype=torch.int64)},
            "u must be floating point and not empty, got torch.int64",
        ),
        ({"z": torch.ones(2, 4, 5, device="meta")}, "z is on meta, u on cpu"),
        ({"indices": torch.arange(5, dtype=torch.int32, device="meta")}, "indices are on meta"),
        ({"backend": "cuda"}, "Unknown backend 'cuda'. Choose one of reference, numba"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {k: v.detach() for k, v in problem(2, 4, 5, None, 2).items()}
    with pytest.raises(ValueError, match=message):
        selective_scan(**(arguments | change))


@pytest.mark.parametrize(
    "size", [(0, 4, 5, None, 2), (2, 0, 5, None, 2), (2, 4, 0, None, 2), (2, 4, 5, None, 0)]
)
def test_an_empty_scan_is_refused(size):
    arguments = {name: t.detach() for name, t in problem(*size).items()}
    with pytest.raises(ValueError, match=r"not empty|no states"):
        selective_scan(**arguments)


def test_every_backend_that_says_ok_runs():
    arguments = {k: v.detach() for k, v in problem(1, 4, 5, None, 2).items()}
    usable = [name for name, state in available_backends().items() if state == "ok"]
    assert {"reference", "torch"} <= set(usable)
    for name in usable:
        assert selective_scan(**arguments, backend=name).isfinite().all()
