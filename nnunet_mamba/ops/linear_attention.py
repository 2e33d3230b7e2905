"""Public functions of linear attention with decay: they check shapes and choose a backend.

It is what Mamba-2 (state space duality [1]) and xLSTM's mLSTM [2] have in common: a matrix as state, one
decay per head and token.

[1] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
[2] Beck et al., xLSTM, arXiv:2405.04517.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nnunet_mamba.ops import custom_ops, multi_scan, onnx_scan, reference
from nnunet_mamba.ops.backends import choose_backend, device_status
from nnunet_mamba.ops.checks import check_indices, check_kind, needs_gradient


def linear_attention(
    values: Tensor,
    log_decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    *,
    reverse: bool = False,
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute linear attention with decay over a sequence, in memory order or any other order of its tokens.

        S_t = exp(log_decay_t) S_{t-1} + v_t k_t^T,    y_t = S_t q_t

    for each of h heads by itself: b batch, l tokens, p channels of a head, n of keys and queries. Head i uses
    the keys and queries of group i * g // h, where h is a multiple of g. Shapes: values (b, l, h, p);
    log_decay (b, l, h), never positive; keys, queries (b, l, g, n) -> y (b, l, h, p) in values' dtype. Any
    strides; fastest, and without a copy, if the last axis is contiguous, and values' two last together.

    Args:
        reverse: from the last token to the first.
        indices: int32 (l,), a permutation: the token of step t; y stays where its token is.
        backend: "reference", "numba", "torch" or "triton"; by default NNUNET_MAMBA_BACKEND or the best for
            the device. mamba_ssm has no such function: asked for it, another backend computes it.

    Computed in float32 (float64 if values are), under autocast or not. NaN in gives NaN out, and nothing else
    does. Raises ValueError if shapes disagree or the backend cannot run.
    """
    one = (t[None] for t in (values, log_decay, keys, queries))
    indices = None if indices is None else indices[None]
    return multi_directional_linear_attention(*one, reverse=[reverse], indices=indices, backend=backend)


def multi_directional_linear_attention(
    values: Tensor,
    log_decay: Tensor,
    keys: Tensor,
    queries: Tensor,
    *,
    reverse: Sequence[bool],
    indices: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the sum of k linear attentions, each in its own direction over the same tokens.

    As `linear_attention`, with values (k, b, l, h, p), or (1, b, l, h, p) if all directions share them;
    log_decay (k, b, l, h); keys, queries (k, b, l, g, n); `reverse`, one bool per direction; indices int32
    (k, l) -> y (b, l, h, p).
    """
    tensors = {
        "values": values,
        "log_decay": log_decay,
        "keys": keys,
        "queries": queries,
    }
    check_kind(tensors)
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, len(reverse))
    check_indices(indices, len(reverse), values.shape[2], values.device)
    arguments = (values, log_decay, keys, queries, indices, list(reverse))
    name = choose_backend(backend, values.device.type)
    if name == "mamba_ssm":  # it has no such function
        name = "triton" if device_status("triton", values.device.type) == "ok" else "torch"
    if name == "reference":
        return _sum_directions(reference.linear_attention_reference, *arguments)
    if torch.onnx.is_in_onnx_export():
        return _sum_directions(onnx_scan.linear_attention, *arguments)
    keep = needs_gradient(values, log_decay, keys, queries)
    eager = keep and not torch.compiler.is_compiling()
    attend = custom_ops.LinearAttentionFunction.apply if eager else custom_ops.linear_attention
    return attend(*arguments, keep, name)[0]


def _sum_directions(
    attend: Callable[..., Tensor], values, log_decay, keys, queries, indices, reverse: list[bool]
) -> Tensor:
    """Return the sum of `attend` of each direction by itself."""
    each = multi_scan.split_attention(values, log_decay, keys, queries, indices, reverse)
    outputs = [attend(*own) for own in each]
    return sum(outputs[1:], outputs[0])


def _check_shapes(shapes: dict[str, tuple[int, ...]], n_directions: int) -> None:
    """Raise ValueError unless the shapes of all directions agree."""
    values, keys = shapes["values"], shapes["keys"]
    if len(values) != 5 or len(keys) != 5:
        raise ValueError(
            f"Expected values (b, l, h, p) and keys (b, l, g, n), got {values[1:]} and {keys[1:]}."
        )
    (b, length, h, _), (g, n) = values[1:], keys[3:]
    if values[0] not in (1, n_directions):
        raise ValueError(
            f"reverse has {n_directions} directions, so values must have as many, or 1; got {values[0]}."
        )
    if n == 0:
        raise ValueError("keys have no channels; expected keys (b, l, g, n) with n at least 1.")
    if g == 0 or h % g:
        raise ValueError(f"{h} heads cannot be split into the {g} groups of keys.")
    grouped = (n_directions, b, length, g, n)
    expected = {"log_decay": (n_directions, b, length, h), "keys": grouped, "queries": grouped}
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(
                f"{name} must be {shape[1:]} in each of {n_directions} directions to go with values "
                f"{values[1:]} and keys {keys[1:]}, got {shapes[name][1:]} in {shapes[name][0]}."
            )
