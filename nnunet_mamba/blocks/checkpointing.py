"""Activation checkpointing: stages of a network whose activations are recomputed in backward, not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class CheckpointedStages(nn.Module):
    """Encoder or decoder that works stage by stage; stage 0 has the largest grid.

    Of the stages below `n_checkpointed` autograd keeps only inputs and outputs, and runs the stage once more
    in backward (Chen et al., arXiv:1604.06174). Parameters, outputs and gradients are the same.
    """

    n_checkpointed = 0

    def run(self, stage: int, step: Callable[..., Result], *inputs: Any) -> Result:
        """Return step(*inputs), the work of one stage; in eval mode and without gradients nothing is
        recomputed."""
        if stage < self.n_checkpointed and self.training and torch.is_grad_enabled():
            result: Result = checkpoint(step, *inputs, use_reentrant=False)
            return result
        return step(*inputs)
