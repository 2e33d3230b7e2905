"""Weights of a network as safetensors, a format that holds numbers and their names, and no code.

Dtypes and bits are kept. Names that share memory, as in nnU-Net's networks the encoder has several, share one
tensor in the file and again after reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STATISTICS = ("running_mean", "running_var")  # buffers of norms, which are no parameters


def find_shared(weights: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> the first name of the same tensor, in the order of `weights`.

    ValueError for values that are no dense tensors.
    """
    first: dict[Any, str] = {}
    shared = {}
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"The weight {name} is a {kind}; only dense tensors can be exported.")
        memory = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
        shared[name] = first.setdefault(memory, name)
    return shared


def count_parameters(weights: Mapping[str, Tensor]) -> int:
    """Return the number of parameters: floating-point numbers but those of a norm's statistics."""
    return sum(
        weights[name].numel()
        for name in dict.fromkeys(find_shared(weights).values())
        if weights[name].is_floating_point() and not name.endswith(STATISTICS)
    )


def write_weights(weights: Mapping[str, Any], file: Path) -> dict[str, str]:
    """Write the tensors and return `find_shared`. ValueError for values that safetensors cannot hold."""
    shared = find_shared(weights)
    tensors = {
        name: weights[name].detach().clone(memory_format=torch.contiguous_format)
        for name in dict.fromkeys(shared.values())
    }
    try:
        file.touch()
        mode = file.stat().st_mode
        save_file(tensors, file, metadata={"format": "pt"})
        file.chmod(mode)  # safetensors may write a file that its owner alone can read
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The weights cannot be written as safetensors: {error}") from error
    return shared


def read_weights(file: Path, shared: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights that `write_weights` wrote, in its order. ValueError for files that do not fit."""
    try:
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # own memory each
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    if set(tensors) != set(shared.values()):
        stray = sorted(set(tensors) ^ set(shared.values()))
        raise ValueError(f"{file} and its list of names do not fit: {', '.join(stray)[:200]}.")
    return {name: tensors[stored] for name, stored in shared.items()}
