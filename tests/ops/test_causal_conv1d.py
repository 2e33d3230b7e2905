"""The causal convolution against torch's own, and in every direction."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_mamba.ops import causal_conv1d


def plain(x, weight, bias, activation):
    """Torch's grouped convolution, padded on the left."""
    y = F.conv1d(F.pad(x, (weight.shape[1] - 1, 0)), weight[:, None], bias, groups=x.shape[1])
    return F.silu(y) if activation else y


@pytest.mark.parametrize("backend", ["reference", "numba", "torch"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("direction", ["memory", "reverse", "permuted"])
@pytest.mark.parametrize(
    ("b", "d", "length", "taps"), [(2, 40, 70, 4), (1, 300, 9, 3), (3, 5, 2, 4), (1, 1, 1, 1)]
)
def test_equals_torch_in_outputs_and_gradients(backend, activation, direction, b, d, length, taps):
    torch.manual_seed(0)
    x = torch.randn(b, d, length, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(d, taps, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(d, dtype=torch.float64, requires_grad=True)
    order = torch.randperm(length) if direction == "permuted" else torch.arange(length)
    steps = order.flip(0) if direction == "reverse" else order
    indices = order.to(torch.int32) if direction == "permuted" else None
    y = causal_conv1d(
        x, weight, bias, activation, reverse=direction == "reverse", indices=indices, backend=backend
    )
    expected = plain(x[..., steps], weight, bias, activation)
    torch.testing.assert_close(y[..., steps], expected)
    dy = torch.randn_like(y)
    actual = torch.autograd.grad(y, [x, weight, bias], dy)
    truth = torch.autograd.grad(expected, [x, weight, bias], dy[..., steps])
    for a, t in zip(actual, truth, strict=True):
        torch.testing.assert_close(a, t)


def test_three_tokens_by_hand():
    """Weights 1, 10 over (previous, this): 1*0+10*1, 1*1+10*2, 1*2+10*3, plus the bias 0.5."""
    x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[1.0, 10.0]])
    y = causal_conv1d(x, weight, torch.tensor([0.5]))
    assert y.flatten().tolist() == [10.5, 21.5, 32.5]


def test_reads_a_slice_of_a_wider_tensor_without_bias_and_in_half_precision():
    wide = torch.randn(2, 30, 64)
    x, weight = wide[:, :, 5:29].transpose(1, 2), torch.randn(24, 4)
    torch.testing.assert_close(causal_conv1d(x, weight, backend="numba"), plain(x, weight, None, None))
    half = causal_conv1d(x.half(), weight, backend="numba")
    assert half.dtype == torch.float16
    torch.testing.assert_close(
        half.float(), plain(x.half().float(), weight, None, None), rtol=1e-3, atol=1e-3
    )


def test_opcheck():
    x = torch.randn(1, 1, 40, 5, requires_grad=True)
    weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 5, 4), (2, 5)))
    indices = torch.stack([torch.randperm(40), torch.arange(40)]).to(torch.int32)
    conv = torch.ops.nnunet_mamba.causal_conv1d.default
    torch.library.opcheck(conv, (x, weight, bias, indices, True, [True, False], "numba"))
    torch.library.opcheck(
        conv, (x, weight[:1].detach().requires_grad_(), None, None, False, [False], "numba")
    )


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"weight must be \(3, 4\) to go with x's 3 channels, got \(2, 4\)"):
        causal_conv1d(torch.ones(1, 3, 4), torch.ones(2, 4))
    with pytest.raises(ValueError, match="Unknown activation 'relu'"):
        causal_conv1d(torch.ones(1, 3, 4), torch.ones(3, 4), activation="relu")
    with pytest.raises(ValueError, match=r"Expected x \(b, d, l\) and weight \(d, w\)"):
        causal_conv1d(torch.ones(3, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"bias must be \(3,\)"):
        causal_conv1d(torch.ones(1, 3, 4), torch.ones(3, 4), torch.ones(6))
    with pytest.raises(ValueError, match="x must be floating point and not empty"):
        causal_conv1d(torch.ones(0, 3, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match="weight is on meta, x on cpu"):
        causal_conv1d(torch.ones(1, 3, 4), torch.ones(3, 4, device="meta"))


def test_second_derivatives_are_refused():
    x, weight = torch.randn(1, 3, 20, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    y = causal_conv1d(x, weight, activation="silu")
    (grad,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"Second derivatives .* are not implemented"):
        torch.autograd.grad(grad.sum(), weight)
