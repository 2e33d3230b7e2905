"""Checks that the public functions of the operators share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Return whether autograd records a call of these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def check_indices(indices: Tensor | None, directions: int, length: int, device: torch.device) -> None:
    """Raise ValueError unless indices are int32 (k, l), on the device of the sequences."""
    if indices is None:
        return
    if indices.shape != (directions, length) or indices.dtype != torch.int32:
        shape = tuple(indices.shape[1:] if directions == 1 else indices.shape)
        wanted = f"({length},)" if directions == 1 else f"({directions}, {length})"
        raise ValueError(f"indices must be int32 {wanted}, got {indices.dtype} {shape}.")
    if indices.device != device:
        raise ValueError(f"indices are on {indices.device}, the sequences are on {device}; move one of them.")


def check_kind(tensors: Mapping[str, Tensor | None]) -> None:
    """Raise ValueError unless the first is floating point and not empty, A real and all on one device."""
    (name, first), *others = tensors.items()
    assert first is not None
    if not first.is_floating_point() or first.numel() == 0:
        raise ValueError(
            f"{name} must be floating point and not empty, got {first.dtype} {tuple(first.shape)}."
        )
    A = tensors.get("A")
    if A is not None and A.is_complex():
        raise ValueError("A is complex; only real A is supported, as in all of these papers' networks.")
    for other, tensor in others:
        if tensor is not None and tensor.device != first.device:
            raise ValueError(f"{other} is on {tensor.device}, {name} on {first.device}; move one of them.")
