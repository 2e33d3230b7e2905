"""Activation checkpointing: stages of a network whose activations are recomputed in backward, not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class CheckpointedStages(nn.Module):
    """Encoder or decoder that works stage by stage; stage 0 has the largest grid.

    Of the stages below `n_checkpointed` autograd keeps only inputs and outputs, and runs the stage once more
    in backward (Chen et al., arXiv:1604.06174). Parameters, outputs, gradients and the statistics of batch
    norms are the same.
    """

    n_checkpointed = 0

    def run(self, stage: int, step: Callable[..., Result], *inputs: Any) -> Result:
        """Return step(*inputs), the work of one stage; in eval mode and without gradients nothing is
        recomputed."""
        if not (stage < self.n_checkpointed and self.training and torch.is_grad_enabled()):
            return step(*inputs)
        if torch.compiler.is_compiling():  # recomputes what has no side effects, and takes no contexts
            return checkpoint(step, *inputs, use_reentrant=False)
        return checkpoint(step, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return what surrounds the first run of a stage, and the second."""
        return nullcontext(), keep_statistics(self)


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms: what runs within adds its batch to copies of them."""
    norms = (norm for norm in module.modules() if isinstance(norm, _BatchNorm))
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    try:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer.clone())
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
