"""Public functions of the selective scan and the causal convolution: they check shapes and choose a backend.

`selective_scan` and `causal_conv1d` take what mamba_ssm and causal_conv1d take. `multi_directional_scan` and
`multi_directional_conv1d` take several scan directions over the same tokens, channels last, as the networks
have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_mamba.ops import custom_ops, mamba_ssm_scan, multi_scan, onnx_scan, reference
from nnunet_mamba.ops.backends import choose_backend, device_status, is_backend_requested
from nnunet_mamba.ops.checks import check_indices, check_kind, needs_gradient

SEQUENCES = ("u", "delta", "B", "C", "z")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: bool = False,
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute Mamba's selective scan (S6) over a sequence, in memory order or any other order of its tokens.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,    y_t = (C_t h_t + D u_t) silu(z_t)

    with delta_t = softplus(delta_t + delta_bias) if delta_softplus. Arguments and shapes are mamba_ssm's:
    u, delta, z (b, d, l); A (d, n) real; B, C (b, n, l) or, by groups of d / g channels, (b, g, n, l);
    D, delta_bias (d,) -> y (b, d, l) in u's dtype. Any strides; fastest, and without a copy, if d is
    contiguous.

    Args:
        reverse: scan from the last token to the first.
        indices: int32 (l,), a permutation: the token of step t; y stays where its token is.
        backend: "reference", "numba", "torch", "triton" or "mamba_ssm"; by default NNUNET_MAMBA_BACKEND or
            the best for the device.

    Computed in float32 (float64 if u is), under autocast or not. NaN in gives NaN out, and nothing else does.
    Raises ValueError if shapes disagree or the backend cannot run.
    """
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    check_kind(tensors)
    _check_scan({name: tuple(t.shape) for name, t in tensors.items() if t is not None})
    u, delta, B, C = (t.transpose(-1, -2)[None] for t in (u, delta, B, C))
    D, delta_bias, indices = (None if t is None else t[None] for t in (D, delta_bias, indices))
    check_indices(indices, 1, u.shape[-2], u.device)
    z = None if z is None else z.transpose(-1, -2)
    y = _scan(u, delta, A[None], B, C, D, z, delta_bias, indices, delta_softplus, [reverse], backend)
    return y.transpose(-1, -2)


def multi_directional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    reverse: Sequence[bool],
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the sum of k selective scans, each in its own direction over the same tokens, channels last.

    As `selective_scan`, with u (k, b, l, d), or (1, b, l, d) if all directions share it; delta (k, b, l, d);
    A (k, d, n); B, C (k, b, g, l, n); D, delta_bias (k, d); the gate z (b, l, d) of all; `reverse`, one bool
    per direction; indices int32 (k, l) -> y (b, l, d). On a GPU no direction's output is stored by itself.
    """
    n_directions = delta.shape[0]
    own = {"delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias, "indices": indices}
    counts = {name: t.shape[0] for name, t in own.items() if t is not None}
    wrong = [name for name, count in counts.items() if count != n_directions]
    if wrong or u.shape[0] not in (1, n_directions) or len(reverse) != n_directions:
        raise ValueError(
            f"delta has {n_directions} directions, so {', '.join(wrong) or 'u and reverse'} must have as "
            f"many (u may have 1); got {list(counts.values())}, u {u.shape[0]}, reverse {len(reverse)}."
        )
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    check_kind(tensors)
    of_one = {name: tuple(t.shape)[name != "z" :] for name, t in tensors.items() if t is not None}
    _check_scan(
        {name: _channels_first(shape) if name in SEQUENCES else shape for name, shape in of_one.items()}
    )
    check_indices(indices, n_directions, u.shape[-2], u.device)
    return _scan(u, delta, A, B, C, D, z, delta_bias, indices, delta_softplus, list(reverse), backend)


def _scan(
    u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: list[bool], backend: str | None
) -> Tensor:
    """Choose the backend and scan; arguments as in `custom_ops`."""
    name = choose_backend(backend, u.device.type)
    if name == "mamba_ssm" and not is_backend_requested(backend) and not mamba_ssm_scan.is_supported(u, A):
        name = "torch"
    arguments = (u, delta, A, B, C, D, z, bias, indices, softplus, reverse)
    if name == "reference":
        return _sum_directions(reference.selective_scan_reference, *arguments)
    if torch.onnx.is_in_onnx_export():
        return _sum_directions(onnx_scan.selective_scan, *arguments)
    if name == "mamba_ssm":
        return _sum_directions(mamba_ssm_scan.selective_scan, *arguments)
    keep = needs_gradient(u, delta, A, B, C, D, z, bias)
    scan = custom_ops.ScanFunction.apply if keep and not torch.compiler.is_compiling() else custom_ops.scan
    return scan(*arguments, keep, name)[0]


def _sum_directions(
    scan: Callable[..., Tensor], u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: list[bool]
) -> Tensor:
    """Return the sum of `scan` of each direction by itself."""
    each = multi_scan.split_directions(u, delta, A, B, C, D, z, bias, indices, reverse)
    outputs = [scan(*own, softplus, is_reversed) for *own, is_reversed in each]
    return sum(outputs[1:], outputs[0])


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: bool = False,
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolve each channel with the steps before: y_t = act(bias + sum_k weight_k x_{t-w+1+k}).

    Shape: x (b, d, l), weight (d, w), bias (d,) -> y (b, d, l) in x's dtype. `activation` is None or "silu".
    Direction, backend, precision and errors are as in `selective_scan`; the argument order is the
    causal_conv1d package's.
    """
    if x.dim() != 3 or weight.dim() != 2:
        raise ValueError(
            f"Expected x (b, d, l) and weight (d, w), got {tuple(x.shape)} and {tuple(weight.shape)}."
        )
    bias, indices = (None if t is None else t.unsqueeze(0) for t in (bias, indices))
    y = multi_directional_conv1d(
        x.transpose(-1, -2).unsqueeze(0),
        weight.unsqueeze(0),
        bias,
        activation,
        reverse=[reverse],
        indices=indices,
        backend=backend,
    )
    return y.squeeze(0).transpose(-1, -2)


def multi_directional_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: Sequence[bool],
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute `causal_conv1d` in k directions at once, channels last.

    Shape: x (k or 1, b, l, d), weight (k, d, w), bias (k, d), indices int32 (k, l) -> y (k, b, l, d).
    """
    if activation not in (None, "silu"):
        raise ValueError(f"Unknown activation {activation!r}; choose None or 'silu'.")
    _check_conv(x, weight, bias, reverse)
    check_indices(indices, len(weight), x.shape[-2], x.device)
    silu, name = activation == "silu", choose_backend(backend, x.device.type)
    if name == "mamba_ssm" and device_status("triton", x.device.type) == "ok":  # it has no convolution
        name = "triton"
    if name in ("numba", "triton") and not torch.onnx.is_in_onnx_export():
        return custom_ops.conv(x, weight, bias, indices, silu, list(reverse), name)
    filters = multi_scan.split_filters(x, weight, bias, indices, reverse)
    convolve: Callable[..., Tensor] = reference.causal_conv1d_reference
    return torch.stack([convolve(*own, silu, is_reversed) for *own, is_reversed in filters])


def _check_conv(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: Sequence[bool]) -> None:
    """Raise ValueError unless the convolution's shapes agree."""
    if x.dim() != 4 or weight.dim() != 3:
        raise ValueError(
            f"Expected x (k or 1, b, l, d) and weight (k, d, w), got {tuple(x.shape)}, {tuple(weight.shape)}."
        )
    n_directions, d = len(weight), x.shape[3]
    if len(reverse) != n_directions or len(x) not in (1, n_directions):
        raise ValueError(
            f"{n_directions} filters need as many of reverse (got {len(reverse)}) and of x (got {len(x)}), "
            "or one x for all."
        )
    expected = {"weight": (weight, (n_directions, d, weight.shape[2])), "bias": (bias, (n_directions, d))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape[1:]} to go with x's {d} channels, got {tuple(tensor.shape[1:])}."
            )
    check_kind({"x": x, "weight": weight, "bias": bias})


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape with its last two axes exchanged."""
    return (*shape[:-2], *shape[:-3:-1])


def _check_scan(shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless one direction's shapes agree: mamba_ssm's, with B and C by groups."""
    u, A, B = (shapes[name] for name in ("u", "A", "B"))
    if len(u) != 3 or len(A) != 2 or len(B) != 4:
        raise ValueError(
            f"Expected u (b, d, l), A (d, n) and B (b, n, l) or (b, g, n, l); got {u}, {A} and {B}."
        )
    (b, d, length), n, g = u, A[1], B[1]
    if n == 0:
        raise ValueError("A has no states; expected A (d, n) with n at least 1.")
    if d % g:
        raise ValueError(f"{d} channels cannot be split into the {g} groups of B.")
    expected = {
        "u": u,
        "delta": u,
        "A": (d, n),
        "B": (b, g, n, length),
        "C": (b, g, n, length),
        "D": (d,),
        "z": u,
        "delta_bias": (d,),
    }
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise ValueError(f"{name} must be {expected[name]} to go with u {u}, got {shape}.")
