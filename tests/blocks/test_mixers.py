"""Mixers on maps: directions, pairs, channels as tokens."""

from inspect import Parameter, signature

import pytest
import torch

from nnunet_mamba.blocks.mamba_trans import MambaTransMixer
from nnunet_mamba.blocks.mixers import (
    INITIAL_STD,
    LAYERS,
    OUTPUTS,
    ChannelMixer,
    VoxelMixer,
    outputs_of,
)
from nnunet_mamba.scan_order import LETTERS, scan_order

GRID = (3, 4, 5)
# layers without an order of tokens do not need directions
ORDERED = [
    kind
    for kind, row in LAYERS.items()
    if signature(row.make).parameters["directions"].default is Parameter.empty
]
SMALL = {"attention": {"headdim": 6}}  # settings for few features


def moved(volume: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The tokens of a map (b, C, *grid) in the order of a scan, as a map again."""
    return volume.flatten(2)[..., steps].view(volume.shape)


@pytest.mark.parametrize("kind", ORDERED)
@pytest.mark.parametrize("letter", [*sorted(set(LETTERS[3]) - {"m"}), "interleave7"])
def test_every_direction_is_the_plain_scan_of_the_tokens_in_its_order(letter, kind):
    """Tokens put in order, scanned in memory order, and put back: what a scan in place must equal."""
    torch.manual_seed(0)
    plain, in_place = (VoxelMixer(6, 3, kind=kind, order=order).double() for order in ("uni", letter))
    in_place.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, *GRID, dtype=torch.float64)
    (direction,) = scan_order(letter, 3)
    token_indices = direction.token_indices(GRID)
    steps = torch.arange(60) if token_indices is None else token_indices.long()
    steps = steps.flip(0) if direction.reverse else steps
    torch.testing.assert_close(in_place(x), moved(plain(moved(x, steps)), steps.argsort()))


@pytest.mark.parametrize("kind", ORDERED)
@pytest.mark.parametrize("order", ["m", "-m"])
def test_slices_carry_no_state_to_each_other(order, kind):
    """Each is what it would be alone, forwards and backwards."""
    torch.manual_seed(0)
    mixer = VoxelMixer(6, 3, kind=kind, order=order).double()
    x = torch.randn(2, 6, *GRID, dtype=torch.float64)
    alone = torch.cat([mixer(x[:, :, i : i + 1]) for i in range(3)], dim=2)
    torch.testing.assert_close(mixer(x), alone)
    changed = x.clone()
    changed[:, :, 1] += 1
    same = [bool((mixer(changed) == mixer(x))[:, :, i].all()) for i in range(3)]
    assert same == [True, False, True]


@pytest.mark.parametrize("kind", ORDERED)
def test_channels_as_tokens_are_the_transposed_map(kind):
    """With the same weights as a mixer of as many channels as there are voxels, on the transposed map."""
    torch.manual_seed(0)
    channel, plain = ChannelMixer(10, (2, 3), kind=kind).double(), VoxelMixer(6, 2, kind=kind).double()
    channel.load_state_dict(plain.state_dict())
    x = torch.randn(2, 10, 2, 3, dtype=torch.float64)
    transposed = x.flatten(2).transpose(1, 2).reshape(2, 6, 10, 1)
    torch.testing.assert_close(channel(x), plain(transposed).view(2, 6, 10).transpose(1, 2).reshape(x.shape))
    with pytest.raises(ValueError, match=r"its grid was \(2, 3\) in training; now it is \(2, 4\)"):
        channel(torch.randn(1, 10, 2, 4).double())


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_mixes_along_the_whole_grid_and_learns_with_all_its_weights(kind):
    """In 2D and 3D, with channels as tokens too: the last voxel hears of the first."""
    torch.manual_seed(0)
    options = {"kind": kind, **SMALL.get(kind, {})}
    mixers = [VoxelMixer(6, ndim, order="bi", **options) for ndim in (2, 3)]
    for mixer, grid in zip(
        (*mixers, ChannelMixer(6, (2, 3), **options)), ((4, 5), GRID, (2, 3)), strict=True
    ):
        x = torch.randn(2, 6, *grid, requires_grad=True)
        y = mixer(x)
        assert y.shape == x.shape
        (gradient,) = torch.autograd.grad(y[0, -1].flatten()[-1], x, retain_graph=True)
        assert gradient[0].flatten()[0] != 0 and not gradient[1].any()
        y.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        assert not [name for name, gradient in gradients.items() if not gradient.any()]


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_of_a_kind(kind):
    assert set(outputs_of(kind)) == set(OUTPUTS) - ({"scaled"} if kind != "mamba" else set())
    assert outputs_of("mamba_trans") == ("bare",)


def voxel_tokens(**options):
    return VoxelMixer(8, 2, order="bi", **options).double()


def channel_tokens(**options):
    return ChannelMixer(8, (3, 2), order="bi", **options).double()


@pytest.mark.parametrize("mixer", [voxel_tokens, channel_tokens])
def test_what_a_mixer_hands_on_follows_from_the_bare_one(mixer):
    """With the same weights: the sum with x, the instance norm, or a multiple of what M gives."""
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    outputs = {}
    for word in OUTPUTS:
        torch.manual_seed(0)
        outputs[word] = mixer(mixer_output=word)(x)
    bare = outputs["bare"]
    torch.testing.assert_close(outputs["residual"], x + bare)
    torch.testing.assert_close(outputs["scaled"], bare / (INITIAL_STD * 2**0.5))  # of two directions
    torch.testing.assert_close(outputs["norm"], torch.nn.functional.instance_norm(bare))


@pytest.mark.parametrize("mixer", [voxel_tokens, channel_tokens])
def test_weights_keep_their_names_whatever_a_mixer_hands_on(mixer):
    names = {word: set(mixer(mixer_output=word).state_dict()) for word in OUTPUTS}
    assert names["residual"] == names["scaled"] == names["bare"]
    assert names["norm"] - names["bare"] == {"out_norm.weight", "out_norm.bias"}


def test_the_norm_behind_a_mixer_is_affine():
    mixer, x = voxel_tokens(mixer_output="norm"), torch.randn(2, 8, 3, 2, dtype=torch.float64)
    before = mixer(x)
    torch.nn.init.constant_(mixer.out_norm.weight, 3.0)
    torch.nn.init.constant_(mixer.out_norm.bias, 0.5)
    torch.testing.assert_close(mixer(x), 3 * before + 0.5)


@pytest.mark.parametrize("order", ["uni", *(f"B{row}" for row in range(1, 10))])
@pytest.mark.parametrize("channels", [16, 64, 256])
def test_a_bare_mixer_begins_small_and_a_scaled_one_as_large_as_its_input(channels, order):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 8, 6, 5)
    with torch.no_grad():
        bare, scaled = (
            VoxelMixer(channels, 3, order=order, mixer_output=word)(x) for word in ("bare", "scaled")
        )
    assert 0.03 < bare.std() / len(scan_order(order, 3)) ** 0.5 < 0.06
    assert 0.7 < scaled.std() < 1.4


def test_pairs_of_directions_are_normalised_sums_and_their_mean():
    torch.manual_seed(0)
    multi = MambaTransMixer(8, 2, order="HW,-HW,WH,-WH").double()
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    there_and_back = [[multi.walks[i](tokens, (3, 4)) for i in pair] for pair in ((0, 1), (2, 3))]
    sums = [norm(a + b) for norm, (a, b) in zip(multi.pair_norms, there_and_back, strict=True)]
    expected = ((sums[0] + sums[1]) / 2).transpose(1, 2).view(x.shape)
    torch.testing.assert_close(multi(x), expected)


@pytest.mark.parametrize(("order", "n_norms"), [("uni", 0), ("bi", 1), ("multi", 3)])
def test_taming_mambas_norms_and_states(order, n_norms):
    """A norm before one direction or pair, not before several; a norm behind each pair; states at most C."""
    mixer = MambaTransMixer(20, 3, order=order, d_state=256)
    assert isinstance(mixer.norm, torch.nn.LayerNorm) == (order != "multi")
    assert len(mixer.pair_norms) == n_norms
    assert mixer.walks[0].mamba.A_log.shape == (40, 20)
    assert MambaTransMixer(80, 3, order=order, d_state=64).walks[0].mamba.A_log.shape == (160, 64)


def test_three_directions_are_no_pairs():
    with pytest.raises(ValueError, match="one direction or pairs of them; scan order 'DHW,DWH,HDW' has 3"):
        MambaTransMixer(8, 3, order="DHW,DWH,HDW")
