"""Random scans for tests of the operators: one sequence as mamba_ssm has it, or several directions."""

import torch
from torch import Tensor

from nnunet_mamba.ops import (
    multi_directional_conv1d,
    multi_directional_linear_attention,
    multi_directional_scan,
    selective_scan,
)

TENSORS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def problem(b, d, length, g, n, *, dtype=torch.float32, optional=True, seed=0) -> dict[str, Tensor]:
    """Random arguments, all of them wanting gradients; B and C without a group axis where g is None."""
    torch.manual_seed(seed)
    grouped = (b, n, length) if g is None else (b, g, n, length)
    arguments = {
        "u": torch.randn(b, d, length, dtype=dtype),
        "delta": torch.rand(b, d, length, dtype=dtype),
        "A": -0.2 - 3 * torch.rand(d, n, dtype=dtype),
        "B": torch.randn(grouped, dtype=dtype),
        "C": torch.randn(grouped, dtype=dtype),
    }
    if optional:
        arguments["D"] = torch.randn(d, dtype=dtype)
        arguments["z"] = torch.randn(b, d, length, dtype=dtype)
        arguments["delta_bias"] = torch.randn(d, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in arguments.items()}


def outputs_and_gradients(arguments, dy, **options) -> dict[str, Tensor]:
    y = selective_scan(**arguments, **options)
    return dict(
        zip(("y", *arguments), (y, *torch.autograd.grad(y, list(arguments.values()), dy)), strict=True)
    )


def directions_problem(
    k, b, length, d, n, *, g=1, shared=False, optional=True, indices=True, dtype=torch.float64, device="cpu"
) -> tuple[dict[str, Tensor], dict]:
    """Random arguments of `multi_directional_scan` that need gradients, and options."""
    torch.manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=dtype, device=device).requires_grad_()

    arguments = {
        "u": random(1 if shared else k, b, length, d),
        "delta": random(k, b, length, d),
        "A": (-0.2 - 3 * torch.rand(k, d, n, dtype=dtype, device=device)).requires_grad_(),
        "B": random(k, b, g, length, n),
        "C": random(k, b, g, length, n),
    }
    if optional:
        arguments |= {"D": random(k, d), "z": random(b, length, d), "delta_bias": random(k, d)}
    return arguments, {"delta_softplus": True, **directions_options(k, length, indices, device)}


def directions_options(k, length, indices, device="cpu") -> dict:
    permutations = (
        torch.stack([torch.randperm(length) for _ in range(k)]).to(device, torch.int32) if indices else None
    )
    return {"reverse": [direction % 2 == 1 for direction in range(k)], "indices": permutations}


def directions_results(arguments, options, backend) -> dict[str, Tensor]:
    """Outputs and gradients of `multi_directional_scan`, for the same random gradient of y."""
    y = multi_directional_scan(**arguments, **options, backend=backend)
    return _with_gradients(y, arguments)


def convolutions(
    k, b, length, d, taps, *, shared=False, bias=True, indices=True, dtype=torch.float64, device="cpu"
):
    """Random arguments of `multi_directional_conv1d` that want gradients, and its options."""
    torch.manual_seed(0)
    shapes = {"x": (1 if shared else k, b, length, d), "weight": (k, d, taps), "bias": (k, d)}
    if not bias:
        del shapes["bias"]
    arguments = {
        name: torch.randn(shape, dtype=dtype, device=device).requires_grad_()
        for name, shape in shapes.items()
    }
    return arguments, directions_options(k, length, indices, device)


def convolution_results(arguments, options, backend, activation="silu") -> dict[str, Tensor]:
    return _with_gradients(
        multi_directional_conv1d(**arguments, **options, activation=activation, backend=backend), arguments
    )


def attention_problem(
    k, b, length, h, p, g, n, *, shared=False, indices=True, dtype=torch.float64, device="cpu"
) -> tuple[dict[str, Tensor], dict]:
    """Random arguments of `multi_directional_linear_attention` that want gradients, and its options; a third
    of the decays are 1, some forget almost all."""
    torch.manual_seed(0)

    def random(*shape):
        return torch.randn(shape, dtype=dtype, device=device)

    arguments = {
        "values": random(1 if shared else k, b, length, h, p),
        "log_decay": -4 * random(k, b, length, h).clamp(min=0.4).sub(0.4).square(),
        "keys": random(k, b, length, g, n),
        "queries": random(k, b, length, g, n),
    }
    wanting = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    return wanting, directions_options(k, length, indices, device)


def attention_results(arguments, options, backend) -> dict[str, Tensor]:
    """Outputs and gradients of `multi_directional_linear_attention`, for the same random gradient of y."""
    y = multi_directional_linear_attention(**arguments, **options, backend=backend)
    return _with_gradients(y, arguments)


def _with_gradients(y: Tensor, arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).mul(64).round().div(64).to(y)
    grads = torch.autograd.grad(y, list(arguments.values()), dy)
    return dict(zip(("y", *arguments), (y.detach(), *grads), strict=True))


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    """Relative errors in the maximum norm."""
    for name, truth in expected.items():
        error = (actual[name] - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        assert error < bound, f"{name}: relative error {error:.1e}"
