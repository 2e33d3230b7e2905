"""Holding a part of a network still for some epochs, without telling DDP or torch.compile."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def freeze_parameters(
    parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, held: Callable[[], bool]
) -> None:
    """Let `optimizer` leave `parameters` alone, weight decay and moments included, while `held()` is true.

    Switching requires_grad would make DDP wait for gradients that never come and torch.compile compile anew.
    Here the gradients are computed all the time; while held they are zeroed as soon as they arrive, so that
    they count neither in the clipped norm nor for the gradient scaler, and they are gone at the step. Against
    requires_grad=False this costs the backward pass through the held part.
    """
    parameters = list(parameters)

    def zero(gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if held() else gradient

    def forget(*_: object) -> None:
        if held():
            for parameter in parameters:
                parameter.grad = None

    for parameter in parameters:
        parameter.register_hook(zero)
    optimizer.register_step_pre_hook(forget)
