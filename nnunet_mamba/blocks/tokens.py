"""Maps (b, C, *grid) as sequences of tokens (b, l, C), in memory order of the grid."""

from __future__ import annotations

from torch import Tensor

Grid = tuple[int, ...]


def to_tokens(x: Tensor) -> Tensor:
    """Bring a map (b, C, *grid) into the form (b, l, C), in memory order of the grid."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """Bring tokens (b, l, C) into the shape (b, C, *grid) of `like`."""
    return tokens.transpose(1, 2).contiguous().view(like.shape)
