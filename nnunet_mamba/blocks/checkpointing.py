"""Memory for time: levels of a network whose activations are recomputed in backward instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class CheckpointedStages(nn.Module):
    """An encoder or decoder that works level by level; level 0 has the largest grid.

    Of the levels below `n_checkpointed` autograd keeps what goes in and what comes out, and runs the level
    once more in backward (Chen et al., arXiv:1604.06174). Parameters, outputs and gradients are the same.
    """

    n_checkpointed = 0

    def run(self, stage: int, step: Callable[..., Result], *inputs: Any) -> Result:
        """step(*inputs), the work of one level; in eval mode and without gradients nothing is recomputed."""
        if stage < self.n_checkpointed and self.training and torch.is_grad_enabled():
            result: Result = checkpoint(step, *inputs, use_reentrant=False)
            return result
        return step(*inputs)
