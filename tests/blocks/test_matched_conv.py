"""Mixers whose layers are convolutions with as many parameters: what they compute, and how far they reach."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_mamba.blocks.large_kernel import LargeKernelMixer
from nnunet_mamba.blocks.mamba_trans import MambaTransMixer
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.mixers import LAYERS, ChannelMixer, VoxelMixer
from nnunet_mamba.blocks.tokens import to_map, to_tokens
from nnunet_mamba.networks.meta_unet import MetaUNet
from nnunet_mamba.ops.precision import FLOAT32, MIXED

GRIDS = {2: (7, 9), 3: (7, 5, 8)}
CONVOLVE = {2: F.conv2d, 3: F.conv3d}
OWN_KEYS = {"in_proj.weight", "conv.weight", "conv.bias", "out_proj.weight"}
MIXERS = {  # name -> (mixer of 6 channels, its layers, the places of its layers in a state dict)
    **{
        kind: (
            lambda ndim, kind=kind, **options: VoxelMixer(
                6, ndim, kind=kind, **options, **({"headdim": 6} if kind == "attention" else {})
            ),
            1,
            {"conv"},
        )
        for kind in LAYERS
    },
    "bi": (lambda ndim, **options: VoxelMixer(6, ndim, order="bi", **options), 1, {"conv"}),
    "mamba_trans": (lambda ndim, **options: MambaTransMixer(6, ndim, **options), 1, {"walks.0.conv"}),
    "mamba_trans of two": (
        lambda ndim, **options: MambaTransMixer(6, ndim, order="bi", **options),
        1,
        {"walks.0.conv", "walks.1.conv"},
    ),
    "large_kernel": (
        lambda ndim, **options: LargeKernelMixer(6, ndim, level=3, **options),
        2,  # one behind the other
        {"pixel.conv", "window.conv"},
    ),
}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def half_of_hidden_channels(module):
    """The parameters of half a hidden channel of each convolution: the largest difference."""
    found = [m for m in module.modules() if isinstance(m, MatchedConv)]
    return sum((2 * m.in_proj.in_features + m.conv.weight[0].numel() + 1) / 2 for m in found)


@pytest.mark.parametrize("ndim", GRIDS)
def test_the_layer_is_two_projections_around_a_depthwise_convolution(ndim):
    torch.manual_seed(0)
    layer = MatchedConv(3, ndim, replaced=nn.Linear(10, 20)).double()
    x = torch.randn(2, 3, *GRIDS[ndim], dtype=torch.float64, requires_grad=True)
    inner = torch.einsum("hc,bc...->bh...", layer.in_proj.weight, x)
    one_by_one = [
        CONVOLVE[ndim](inner[:, [h]], layer.conv.weight[[h]], layer.conv.bias[[h]], padding=1)
        for h in range(inner.shape[1])
    ]
    inner = torch.cat(one_by_one, 1)
    expected = torch.einsum("ch,bh...->bc...", layer.out_proj.weight, inner * inner.sigmoid())
    torch.testing.assert_close(to_map(layer(to_tokens(x), GRIDS[ndim]), x), expected)


@pytest.mark.parametrize("ndim", GRIDS)
def test_gradients_of_the_layer(ndim):
    torch.manual_seed(0)
    grid = (2, 3, 2)[:ndim]
    layer = MatchedConv(2, ndim, replaced=nn.Linear(9, 9)).double()
    tokens = torch.randn(2, math.prod(grid), 2, dtype=torch.float64, requires_grad=True)
    weights = list(layer.parameters())
    torch.autograd.gradcheck(lambda tokens, *_: layer(tokens, grid), (tokens, *weights))


@pytest.mark.parametrize("channels", [1, 5, 32, 320])
@pytest.mark.parametrize("ndim", GRIDS)
def test_no_other_number_of_hidden_channels_comes_nearer(channels, ndim):
    for wanted in (100, 4_321, 675_840):
        with torch.device("meta"):
            layer = MatchedConv(channels, ndim, replaced=nn.Linear(wanted, 1, bias=False))
        hidden, of_hidden = layer.in_proj.out_features, 2 * channels + 3**ndim + 1
        assert count(layer) == hidden * of_hidden
        off = abs(count(layer) - wanted)
        assert hidden >= 1
        assert off <= abs((hidden + 1) * of_hidden - wanted)
        assert off <= abs((hidden - 1) * of_hidden - wanted) or hidden == 1


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("ndim", GRIDS)
def test_a_local_mixer_has_the_parameters_of_its_own_but_for_half_a_hidden_channel(name, ndim):
    """Beside the layers every parameter is the same; those of the layers have names of their own."""
    make, _, layers = MIXERS[name]
    own, local = make(ndim), make(ndim, local=True)
    assert half_of_hidden_channels(local) > 0
    assert abs(count(own) - count(local)) <= half_of_hidden_channels(local)
    keys, own_keys = set(local.state_dict()), set(own.state_dict())
    assert keys - own_keys == {f"{layer}.{key}" for layer in layers for key in OWN_KEYS}
    assert own.mixer_precision == FLOAT32 and local.mixer_precision == MIXED


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("ndim", GRIDS)
def test_a_voxel_is_heard_of_by_its_neighbours_alone(name, ndim):
    """Exactly those at most one voxel away, or two where two layers follow each other."""
    torch.manual_seed(0)
    make, reach, _ = MIXERS[name]
    mixer, grid = make(ndim, local=True).double(), GRIDS[ndim]
    x = torch.randn(1, 6, *grid, dtype=torch.float64)
    changed, where = x.clone(), tuple(size // 2 for size in grid)
    changed[(0, slice(None), *where)] += torch.randn(6, dtype=torch.float64)
    heard = (mixer(changed) != mixer(x)).any(1)[0]
    near = torch.zeros(grid, dtype=torch.bool)
    near[tuple(slice(max(0, i - reach), i + reach + 1) for i in where)] = True
    assert torch.equal(heard, near)
    assert not near.all()


@pytest.mark.parametrize("grid", [(4, 3), (3, 2, 4)])
def test_where_channels_are_tokens_the_convolution_is_over_the_grid(grid):
    """Behind the norm over voxels; the parameters are those of the layer over channels."""
    torch.manual_seed(0)
    own, local = (ChannelMixer(30, grid, local=local).double() for local in (False, True))
    assert abs(count(own) - count(local)) <= half_of_hidden_channels(local)
    x = torch.randn(2, 30, *grid, dtype=torch.float64)
    normalised = F.layer_norm(x, grid)
    expected = to_map(local.layer(to_tokens(normalised), grid), x)
    torch.testing.assert_close(local(x), expected)
    with pytest.raises(ValueError, match="takes channels as tokens where its grid was"):
        local(torch.randn(1, 30, *[5] * len(grid)).double())


def test_a_convolution_beyond_float16_leaves_the_mixer_finite():
    """SiLU of minus infinity would be NaN."""
    torch.manual_seed(0)
    mixer = VoxelMixer(16, 3, local=True)
    with torch.no_grad():
        mixer.layer.in_proj.weight.mul_(1000)
        mixer.layer.conv.weight.mul_(1000)
    with torch.autocast("cpu", torch.float16):
        assert mixer(torch.randn(1, 16, 4, 4, 4)).isfinite().all()


@pytest.mark.parametrize("channels", [32, 320])
def test_a_bare_mixer_of_a_network_begins_at_a_fifth_of_its_input(channels):
    torch.manual_seed(0)
    mixer = VoxelMixer(channels, 3, local=True).apply(MetaUNet.initialize)
    assert 0.15 < mixer(torch.randn(2, channels, 6, 6, 6)).std() < 0.3


@pytest.mark.parametrize("name", MIXERS)
def test_every_weight_of_a_local_mixer_learns_in_half_precision_too(name):
    torch.manual_seed(0)
    mixer = MIXERS[name][0](3, local=True)
    x = torch.randn(2, 6, *GRIDS[3], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixer(x).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (x, *mixer.parameters()))
