"""Convolution blocks in nnU-Net's manner: instance norm, leaky ReLU, biases; 2D and 3D by the length of the
kernel.

Names of parameters are nnU-Net's (`convs.0.conv.weight`, `convs.0.norm.weight`), so its checkpoints fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Layer = Callable[..., nn.Module]
CONV: dict[int, Layer] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: dict[int, Layer] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Layer] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
AVG_POOL: dict[int, Layer] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
Size = Sequence[int]


def activation() -> nn.Module:
    """Return nnU-Net's leaky ReLU."""
    return nn.LeakyReLU(0.01, inplace=True)


def convolution(
    in_channels: int, out_channels: int, kernel: Size, stride: Size | None = None, bias: bool = True
) -> nn.Module:
    """Return a convolution padded so that stride 1 keeps the grid (odd kernels)."""
    padding = [(k - 1) // 2 for k in kernel]
    stride = tuple(stride or [1] * len(kernel))
    return CONV[len(kernel)](in_channels, out_channels, tuple(kernel), stride, padding, bias=bias)


def pointwise(
    in_channels: int, out_channels: int, ndim: int, stride: Size | None = None, bias: bool = True
) -> nn.Module:
    """Return a 1x1(x1) convolution."""
    return convolution(in_channels, out_channels, [1] * ndim, stride, bias)


class ConvNormAct(nn.Sequential):
    """Convolution, instance norm and, unless `act` is False, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        stride: Size | None = None,
        *,
        act: bool = True,
        bias: bool = True,
        affine: bool = True,
    ):
        super().__init__()
        self.conv = convolution(in_channels, out_channels, kernel, stride, bias)
        self.norm = NORM[len(kernel)](out_channels, eps=1e-5, affine=affine)
        if act:
            self.act = activation()


class StackedConvs(nn.Module):
    """Stack of `n_convs` times convolution, norm, activation; the first changes channels and strides.

    With `last_act` False the last one ends with its norm: the branch F of a residual block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        stride: Size,
        n_convs: int,
        *,
        last_act: bool = True,
        bias: bool = True,
        affine: bool = True,
    ):
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvNormAct(
                    out_channels if i else in_channels,
                    out_channels,
                    kernel,
                    None if i else stride,
                    act=last_act or i < n_convs - 1,
                    bias=bias,
                    affine=affine,
                )
                for i in range(n_convs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


def projection_skip(in_channels: int, out_channels: int, stride: Size) -> nn.Module:
    """Return the skip of a residual block, the identity where it can be (ResNet-D, He et al.,
    arXiv:1812.01187): average pooling for strides, then a pointwise convolution and norm for channels."""
    steps: list[nn.Module] = []
    if any(s != 1 for s in stride):
        steps.append(AVG_POOL[len(stride)](tuple(stride), tuple(stride)))
    if in_channels != out_channels:
        steps.append(ConvNormAct(in_channels, out_channels, [1] * len(stride), act=False, bias=False))
    return nn.Sequential(*steps)


class ChannelGate(nn.Sequential):
    """Weights for channels by their means (squeeze-and-excitation, Hu et al., arXiv:1709.01507):

    x sigmoid(W relu(V mean(x))),  V with `hidden` rows
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        weights = super().forward(x.flatten(2).mean(2))
        return x * weights.view(*weights.shape, *[1] * (x.ndim - 2))


class NearestUpsample(nn.Module):
    """Pointwise convolution, then nearest-neighbour upsampling: the same numbers as in the reverse order, for
    an eighth of the work."""

    def __init__(self, in_channels: int, out_channels: int, stride: Size):
        super().__init__()
        self.conv = pointwise(in_channels, out_channels, len(stride))
        self.upsample = nn.Upsample(scale_factor=tuple(float(s) for s in stride), mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.conv(x))


def upsampling(kind: str, in_channels: int, out_channels: int, stride: Size) -> nn.Module:
    """Return a transposed convolution with kernel = stride for `transpose`, `NearestUpsample` for
    `nearest`."""
    if kind == "nearest":
        return NearestUpsample(in_channels, out_channels, stride)
    return CONV_TRANSPOSE[len(stride)](in_channels, out_channels, tuple(stride), tuple(stride), bias=True)
