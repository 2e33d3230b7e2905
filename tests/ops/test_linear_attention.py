"""Linear attention: every backend against the definition, the definition against numbers worked by hand."""

import pytest
import torch
from scans import assert_equal, attention_problem, attention_results

from nnunet_mamba.ops import linear_attention, multi_directional_linear_attention
from nnunet_mamba.ops.constants import LINEAR_CHUNKS

FAST = ["numba", "torch"]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
BOUND = {torch.float32: 2e-6, torch.float64: 1e-12}


def one_direction(*sizes, **options):
    """Arguments of `linear_attention`, without gradients."""
    arguments, _ = attention_problem(1, *sizes, **options)
    return {name: tensor[0].detach() for name, tensor in arguments.items()}


def exact(arguments, options):
    """What the definition gives in float64 for the same numbers."""
    double = {name: t.detach().double().requires_grad_() for name, t in arguments.items()}
    return attention_results(double, options, "reference")


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_numbers_worked_by_hand(backend):
    """Decays 1, 1/2, 1/4; one key of 1 and one of t: S is two running sums, y their weighted sum."""
    values, t = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1), torch.arange(3.0)
    log_decay = torch.tensor([1.0, 0.5, 0.25]).log().view(1, 3, 1)
    keys = torch.stack([torch.ones(3), t], -1).view(1, 3, 1, 2)
    queries = torch.tensor([1.0, 10.0]).expand(1, 3, 1, 2)
    y = linear_attention(values, log_decay, keys, queries, backend=backend)
    # S: (1, 0); (1/2 + 2, 2); (5/8 + 4, 1/2 + 8)
    torch.testing.assert_close(y.flatten(), torch.tensor([1.0, 22.5, 4.625 + 85]))
    backwards = linear_attention(values, log_decay, keys, queries, reverse=True, backend=backend)
    # from the last: (4, 8); (4/2 + 2, 8/2 + 2); (4 + 1, 6)
    torch.testing.assert_close(backwards.flatten(), torch.tensor([65.0, 64.0, 84.0]))


@pytest.mark.parametrize("backend", FAST)
@DTYPES
@pytest.mark.parametrize(
    ("b", "h", "p", "g", "n"),
    [(1, 1, 1, 1, 1), (2, 8, 16, 1, 32), (1, 6, 20, 2, 5), (1, 2, 24, 2, 40), (3, 3, 7, 1, 17)],
)
@pytest.mark.parametrize("chunks", ["one", "many"])
def test_matches_the_reference_in_outputs_and_all_gradients(backend, dtype, b, h, p, g, n, chunks):
    length = 5 if chunks == "one" else 3 * LINEAR_CHUNKS[backend] + 7
    arguments, options = attention_problem(1, b, length, h, p, g, n, dtype=dtype)
    assert_equal(attention_results(arguments, options, backend), exact(arguments, options), BOUND[dtype])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2])
def test_any_length_from_one_token_on(backend, beyond, chunks):
    for length in {max(1, chunks + beyond), chunks * LINEAR_CHUNKS[backend] + beyond}:
        arguments, options = attention_problem(1, 1, length, 2, 8, 1, 4, indices=False)
        assert_equal(attention_results(arguments, options, backend), exact(arguments, options), 1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shared", [False, True], ids=["own values", "one for all"])
@pytest.mark.parametrize("indices", [False, True], ids=["memory order", "permuted"])
def test_directions_are_summed(backend, shared, indices):
    arguments, options = attention_problem(3, 2, 70, 4, 8, 2, 5, shared=shared, indices=indices)
    assert_equal(attention_results(arguments, options, backend), exact(arguments, options), 1e-12)


def test_several_directions_are_single_ones_added_up():
    arguments, options = attention_problem(3, 2, 40, 4, 8, 2, 5)
    y = multi_directional_linear_attention(**arguments, **options)
    each = [
        linear_attention(
            **{name: tensor[k] for name, tensor in arguments.items()},
            reverse=options["reverse"][k],
            indices=options["indices"][k],
        )
        for k in range(3)
    ]
    torch.testing.assert_close(y, sum(each))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@DTYPES
def test_without_decay_it_is_causal_attention_without_softmax(backend, dtype):
    own = one_direction(1, 150, 2, 8, 2, 6, dtype=dtype, indices=False)
    own["log_decay"] = torch.zeros_like(own["log_decay"])
    weights = torch.einsum("blhn,bmhn->bhlm", own["queries"], own["keys"]).tril()
    expected = torch.einsum("bhlm,bmhp->blhp", weights, own["values"])
    torch.testing.assert_close(linear_attention(**own, backend=backend), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
@DTYPES
def test_what_is_forgotten_leaves_no_trace(backend, dtype):
    """A decay of exp(-1e4) at some tokens, also the first of a chunk: all is finite and right, and so are
    the decays between, whose sums would lose their digits beside such numbers."""
    arguments, options = attention_problem(1, 1, 200, 2, 8, 1, 4, dtype=dtype, indices=False)
    forgetting = torch.zeros(200, dtype=torch.bool)
    forgetting[[0, 7, 8, 64, 96, 130]] = True
    log_decay = arguments["log_decay"].detach().masked_fill(forgetting[:, None], -1e4)
    arguments["log_decay"] = log_decay.requires_grad_()
    assert_equal(attention_results(arguments, options, backend), exact(arguments, options), 2 * BOUND[dtype])
    all_forgotten = arguments | {"log_decay": torch.full_like(log_decay, -1e4).requires_grad_()}
    actual = attention_results(all_forgotten, options, backend)
    alone = (arguments["keys"] * arguments["queries"]).sum(-1, keepdim=True) * arguments["values"]
    torch.testing.assert_close(actual["y"], alone[0].detach(), rtol=1e-5, atol=1e-5)
    assert actual["log_decay"].abs().max() < 1e-30


@pytest.mark.parametrize("backend", FAST)
def test_any_strides_give_the_same_numbers(backend):
    """Slices of rows that hold all of them, as Mamba-2 has; heads before tokens; a key for all items."""
    own = one_direction(2, 70, 4, 8, 1, 8, indices=False)
    expected = linear_attention(**own, backend="reference")
    wide = torch.cat([own[name].flatten(2) for name in ("values", "keys", "queries", "log_decay")], -1)
    values, keys, queries, log_decay = wide.split([32, 8, 8, 4], -1)
    sliced = {
        "values": values.unflatten(-1, (4, 8)),
        "log_decay": log_decay,
        "keys": keys.unsqueeze(2),
        "queries": queries.unsqueeze(2),
    }
    torch.testing.assert_close(linear_attention(**sliced, backend=backend), expected)
    turned = {name: t.transpose(0, 2).contiguous().transpose(0, 2) for name, t in own.items()}
    torch.testing.assert_close(linear_attention(**turned, backend=backend), expected)
    same = own | {"keys": own["keys"][:1].expand(2, -1, -1, -1)}
    repeated, expected = (linear_attention(**same, backend=name) for name in (backend, "reference"))
    torch.testing.assert_close(repeated, expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32_and_rounded_once(backend, dtype):
    arguments, options = attention_problem(2, 1, 500, 2, 8, 1, 4, dtype=torch.float32)
    half = {k: t.detach().to(torch.float32 if k == "log_decay" else dtype) for k, t in arguments.items()}
    half = {name: tensor.requires_grad_() for name, tensor in half.items()}
    actual = attention_results(half, options, backend)
    assert {name: actual[name].dtype for name in half} == {name: half[name].dtype for name in half}
    y, truth = actual["y"].double(), exact(half, options)["y"]
    assert actual["y"].dtype == dtype
    assert ((y - truth).abs() <= torch.finfo(dtype).eps / 2 * truth.abs() + 1e-5).all()


@pytest.mark.parametrize("backend", FAST)
def test_autocast_changes_nothing(backend):
    arguments, options = attention_problem(1, 1, 100, 2, 8, 1, 4, dtype=torch.float32)
    plain = attention_results(arguments, options, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = attention_results(arguments, options, backend)
    for name, value in plain.items():
        assert torch.equal(value, cast[name]), name


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("name", ["values", "log_decay", "keys", "queries"])
def test_nan_in_gives_nan_out_and_not_in_other_heads_or_items(backend, name):
    own = one_direction(2, 100, 4, 8, 2, 6, dtype=torch.float32, indices=False)
    own[name][0, 20, 0] = torch.nan
    y = linear_attention(**own, backend=backend)
    assert y[0, 20, 0].isnan().all()
    assert y[1].isfinite().all()
    assert y[0, :, 2:].isfinite().all()  # of the other group
    if backend != "torch":  # its products of matrices have the whole chunk
        assert y[0, :20].isfinite().all()
    if name != "queries":
        assert y[0, 20:, 0].isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("b", "h", "g"), [(1, 5, 1), (3, 4, 2)])
def test_threads_change_nothing_but_the_order_of_sums(threads, b, h, g):
    before = torch.get_num_threads()
    arguments, options = attention_problem(2, b, 70, h, 8, g, 6)
    expected = attention_results(arguments, options, "reference")
    torch.set_num_threads(threads)
    try:
        first, second = (attention_results(arguments, options, "numba") for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_equal(first, expected, 1e-12)


def test_what_one_item_leaves_in_memory_does_not_reach_the_next():
    """A last chunk of a few steps after whole ones that held NaN, in one thread."""
    before = torch.get_num_threads()
    arguments, options = attention_problem(1, 2, 40, 2, 5, 1, 3, indices=False)
    for tensor in arguments.values():
        tensor.data[0, 0] = torch.nan
    torch.set_num_threads(1)
    try:
        actual = attention_results(arguments, options, "numba")
    finally:
        torch.set_num_threads(before)
    assert actual["y"][0].isnan().all()
    assert all(tensor.select(0 if name == "y" else 1, 1).isfinite().all() for name, tensor in actual.items())


@pytest.mark.parametrize("backend", FAST)
def test_opcheck(backend):
    arguments, options = attention_problem(2, 1, 40, 4, 5, 2, 3)
    call = (*arguments.values(), options["indices"], options["reverse"])
    operator = torch.ops.nnunet_mamba.linear_attention.default
    torch.library.opcheck(operator, (*call, True, backend))
    with torch.no_grad():
        assert operator(*call, False, backend)[1].numel() == 0  # nothing is kept for a backward


@pytest.mark.parametrize("backend", FAST)
def test_compiles_without_a_graph_break(backend):
    arguments, options = attention_problem(2, 1, 40, 4, 8, 2, 3)

    def attend(values):
        own = arguments | {"values": values}
        return multi_directional_linear_attention(**own, **options, backend=backend).square().sum()

    values = arguments["values"]
    expected, actual = attend(values), torch.compile(attend, fullgraph=True, backend="aot_eager")(values)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, values)[0] for y in (actual, expected)))


@pytest.mark.parametrize("backend", FAST)
def test_second_derivatives_are_refused(backend):
    arguments, options = attention_problem(1, 1, 10, 1, 4, 1, 3)
    y = multi_directional_linear_attention(**arguments, **options, backend=backend)
    (grad,) = torch.autograd.grad(y.sum(), arguments["values"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"Second derivatives .* are not implemented"):
        torch.autograd.grad(grad.sum(), arguments["keys"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.ones(2, 5, 8)}, r"Expected values \(b, l, h, p\)"),
        ({"log_decay": torch.ones(2, 5, 3)}, r"log_decay must be \(2, 5, 4\).* got \(2, 5, 3\)"),
        ({"keys": torch.ones(2, 5, 3, 6)}, "4 heads cannot be split into the 3 groups"),
        ({"keys": torch.ones(2, 5, 2, 0)}, "keys have no channels"),
        ({"queries": torch.ones(2, 5, 2, 7)}, r"queries must be \(2, 5, 2, 6\)"),
        ({"values": torch.ones(2, 5, 4, 8).int()}, "values must be floating point and not empty"),
        ({"values": torch.ones(2, 0, 4, 8)}, "not empty"),
        ({"keys": torch.ones(2, 5, 2, 6, device="meta")}, "keys is on meta, values on cpu"),
        ({"indices": torch.arange(5)}, r"indices must be int32 \(5,\), got torch.int64"),
        ({"backend": "cuda"}, "Unknown backend 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        linear_attention(**(one_direction(2, 5, 4, 8, 2, 6, indices=False) | change))


def test_wrong_numbers_of_directions_are_named():
    arguments, options = attention_problem(3, 1, 5, 2, 4, 1, 3, indices=False)
    with pytest.raises(ValueError, match="3 directions, so values must have as many, or 1; got 2"):
        multi_directional_linear_attention(**(arguments | {"values": arguments["values"][:2]}), **options)
    with pytest.raises(ValueError, match=r"keys must be .* in each of 3 directions .* in 2"):
        multi_directional_linear_attention(**(arguments | {"keys": arguments["keys"][:2]}), **options)
