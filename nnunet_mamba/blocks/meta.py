"""Meta-block: all blocks of the family in one table."""

from __future__ import annotations

from torch import Tensor, nn

from nnunet_mamba.blocks.convolution import activation

PLACEMENTS = ("cnn", "ssm", "hybrid_inside", "hybrid_outside")


class MetaBlock(nn.Module):
    """Block of the meta-architecture [1]: local convolutions F, a global mixer M, or both.

        cnn             act(x + F(x))
        ssm             x + M(x), unless the mixer adds x itself
        hybrid_inside   act(x + M(F(x)))      the mixer works within the residual branch
        hybrid_outside  M(act(x + F(x)))      the mixer works on the sum

    `skip` replaces x where F changes channels or strides. The absent part of a block is the identity; so is
    an `ssm` block without its mixer. Shape: (B, C, *grid) -> (B, C', *grid'), as F and `skip` give it; grid
    of 2 or 3 axes.

    [1] Xie et al., MM-UNet, arXiv:2503.17540, fig. 1b.
    """

    def __init__(
        self, placement: str, convs: nn.Module | None, mixer: nn.Module | None, skip: nn.Module | None = None
    ):
        super().__init__()
        if placement not in PLACEMENTS:
            raise ValueError(f"Unknown placement {placement!r}; choose one of {', '.join(PLACEMENTS)}.")
        self.placement = placement
        if convs is not None:
            self.convs = convs
            self.act = activation()
        self.mixer = mixer or nn.Identity()
        self.adds_x = mixer is not None and not getattr(mixer, "residual", False)  # in an `ssm` block
        self.skip = skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.placement == "ssm":
            return x + self.mixer(x) if self.adds_x else self.mixer(x)
        if self.placement == "hybrid_inside":
            return self.act(self.skip(x) + self.mixer(self.convs(x)))
        return self.mixer(self.act(self.skip(x) + self.convs(x)))
