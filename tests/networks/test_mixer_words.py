"""`mixer=` replaces a network's mixers by others in the same places, by one word."""

import pytest
import torch
from published_plans import ABDOMEN_CT

from nnunet_mamba import create_network
from nnunet_mamba.blocks.matched_conv import MatchedConv
from nnunet_mamba.blocks.mixers import KINDS, LAYERS, ChannelMixer, TokenMixer, VoxelMixer
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import FAMILY, get_config, supported_ndims
from nnunet_mamba.networks.mixer_config import CONV, LocalMixer, Mixer
from nnunet_mamba.ops.precision import MIXED, SequenceMixer

TOPOLOGY = ("features_per_stage", "strides", "kernel_sizes")
SLOTS = ("mm_unet", "umamba_enc", "umamba2")  # within blocks, behind stages, behind the last
PLAN = {
    "input_channels": 1,
    "num_classes": 3,
    "features_per_stage": [8, 8, 16, 16],
    "strides": [1, 2, 2, 2],
    "kernel_sizes": [3] * 4,
    "patch_size": [16, 16, 16],
}


PUBLISHED = {  # nnU-Net's plans for abdominal CT, in 2D and 3D
    2: {
        "input_channels": 1,
        "num_classes": 14,
        "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
        "strides": [[1, 1], *[[2, 2]] * 6],
        "kernel_sizes": [[3, 3]] * 7,
        "patch_size": [320, 320],
    },
    3: ABDOMEN_CT,
}


def of_axes(ndim: int) -> dict:
    return {"strides": [[1] * ndim, *[[2] * ndim] * 3], "kernel_sizes": [[3] * ndim] * 4}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def places(network: torch.nn.Module) -> list[str]:
    return [key for key, module in network.named_modules() if isinstance(module, SequenceMixer)]


@pytest.mark.parametrize("kind", [*KINDS, CONV])
@pytest.mark.parametrize("name", SLOTS)
def test_other_mixers_stand_in_the_same_places_and_all_else_is_equal(name, kind):
    """The twin is the same, too; every weight of a mixer learns, under bfloat16 autocast too.

    The coarsest grid has 4 x 2 x 2 voxels: of 3D convolutions over two voxels of the first axis torch 2.14
    computes gradients in bfloat16 from memory that nobody wrote, on CPUs with instructions for bfloat16.
    """
    plan = {**PLAN, "patch_size": [32, 16, 16]}
    own, other = create_network(name, **plan), create_network(name, **plan, mixer=kind, deep_supervision=True)
    twin, of_word = create_network(f"{name}_nossm", **plan), create_network(name, **plan, mixer="none")
    assert places(other) == places(own) != []
    shapes = {key: value.shape for key, value in other.state_dict().items()}
    prefixes = tuple(f"{place}." for place in places(other))
    rest = {key: shape for key, shape in shapes.items() if not key.startswith(prefixes)}
    assert rest == {key: value.shape for key, value in twin.state_dict().items()}
    assert get_config(name).with_overrides(mixer=kind).without_ssm() == get_config(f"{name}_nossm")
    assert list(of_word.state_dict()) == list(twin.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = other(torch.randn(2, 1, 32, 16, 16))
    assert all(output.isfinite().all() for output in outputs)
    sum(output.float().square().mean() for output in outputs).backward()
    gradients = {key: parameter.grad for key, parameter in other.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    silent = [key for key, gradient in gradients.items() if not gradient.any()]
    assert not [key for key in silent if key.startswith(prefixes)]


def test_a_kind_brings_its_own_settings():
    mixer = get_config("mamba_multi").with_overrides(mixer="mamba").mixer
    assert mixer == Mixer("mamba", order=FAMILY["mamba_multi"].mixer.order)
    mixer = get_config("mm_unet").with_overrides(mixer="mamba2", d_state=8).mixer
    assert mixer == Mixer("mamba2", order="bi", mixer_output="residual", d_state=8)
    assert get_config("mm_unet").with_overrides(kind="mlstm") == get_config("mm_unet").with_overrides(
        mixer="mlstm"
    )
    assert get_config("umamba_bot").with_overrides(mixer="mamba") == FAMILY["umamba_bot"]
    scaled = get_config("mm_unet").with_overrides(mixer_output="scaled")
    assert scaled.with_overrides(mixer="attention").mixer.mixer_output == "bare"


@pytest.mark.parametrize(
    "name, ndim",
    [(name, n) for name, config in FAMILY.items() if config.mixer for n in supported_ndims(name)],
)
def test_convolutions_have_the_parameters_of_the_mixers_in_every_place(name, ndim):
    """But for half a hidden channel, 2 C + 3^n + 1 parameters, of each layer; in autocast's precision."""
    is_fixed = isinstance(FAMILY[name], FixedConfig)
    plan = {key: value for key, value in PUBLISHED[ndim].items() if not is_fixed or key not in TOPOLOGY}
    with torch.device("meta"):
        own, conv = (create_network(name, **plan, **word) for word in ({}, {"mixer": CONV}))
    assert places(own) == places(conv) != []
    for place in places(own):
        layers = [m for m in conv.get_submodule(place).modules() if isinstance(m, MatchedConv)]
        bound = sum((2 * layer.in_proj.in_features + 3**ndim + 1) / 2 for layer in layers)
        off = count(own.get_submodule(place)) - count(conv.get_submodule(place))
        assert layers and abs(off) <= bound, place
        assert conv.get_submodule(place).mixer_precision == MIXED, place
    rest = [
        count(network) - sum(count(network.get_submodule(p)) for p in places(own)) for network in (own, conv)
    ]
    assert rest[0] == rest[1]


def test_convolutions_match_the_networks_settings_and_other_mixers_too():
    config = get_config("mm_unet").with_overrides(mixer=CONV)
    assert config.mixer == LocalMixer("mamba", order="bi", mixer_output="residual")
    assert config.with_overrides(d_state=8).mixer == LocalMixer(
        "mamba", order="bi", mixer_output="residual", d_state=8
    )
    assert config.with_overrides(mixer=CONV) == config.with_overrides(kind=CONV) == config
    assert config.with_overrides(mixer="mamba") == get_config("mm_unet")
    assert config.with_overrides(mixer="mamba2") == get_config("mm_unet").with_overrides(mixer="mamba2")
    other = get_config("mm_unet").with_overrides(mixer="mamba2").with_overrides(mixer=CONV)
    assert other.mixer == LocalMixer("mamba2", order="bi", mixer_output="residual")
    scaled = get_config("mm_unet").with_overrides(mixer_output="scaled")
    assert scaled.with_overrides(mixer=CONV).mixer.mixer_output == "bare"
    sizes = [count(create_network("mm_unet", **PLAN, mixer=CONV, d_state=d_state)) for d_state in (4, 16, 64)]
    assert sizes == sorted(set(sizes))


def test_convolutions_take_grids_of_any_size():
    plan = {**PLAN, "patch_size": None}
    for ndim, grid in ((2, (24, 40)), (3, (8, 24, 16))):
        network = create_network("umamba_bot", **plan | of_axes(ndim), mixer=CONV, deep_supervision=True)
        shapes = [tuple(y.shape[2:]) for y in network(torch.randn(1, 1, *grid))]
        assert shapes == [tuple(size // 2**s for size in grid) for s in range(3)]


def test_umamba2_with_mamba_is_its_authors_other_network():
    plan = {**PLAN, "features_per_stage": [32, 64, 128, 320]}
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in create_network("umamba2", **plan, **options).parameters())
            for options in ({"mixer": "mamba"}, {"mixer": "none"})
        ]
    assert counts[0] - counts[1] == 675_840


@pytest.mark.parametrize("kind", [*LAYERS, CONV])
def test_channels_are_tokens_of_every_kind_where_the_grid_is_small(kind):
    network = create_network("umamba_enc", **PLAN, mixer=kind)
    mixers = [type(module) for module in network.modules() if isinstance(module, TokenMixer)]
    assert mixers == [VoxelMixer, VoxelMixer, VoxelMixer, ChannelMixer]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mm_unet", {"mixer": "rnn"}, "no mixer 'rnn'; choose from mamba, mamba2, .*conv, none"),
        ("nnunet", {"mixer": "mamba"}, "no mixer, so there is no place for 'mamba'"),
        ("mm_unet_nossm", {"mixer": "mamba"}, "no mixer, so there is no place for 'mamba'"),
        ("vm_unet", {"mixer": "mamba2"}, "no mixer 'mamba2'; choose from vss, conv, none"),
        (
            "mm_unet",
            {"headdim": 8},
            "headdim: mixers of the kind 'mamba' have no such setting",
        ),
        ("mm_unet", {"mixer": "attention", "d_state": 8}, "d_state: mixers of the kind 'attention'"),
        (
            "mm_unet",
            {"mixer": "mlstm", "mixer_output": "scaled"},
            "of the kind 'mlstm' have no 'scaled'",
        ),
        ("nnunet", {"mixer": "conv"}, "no mixer, so there is no place for 'conv'"),
        (
            "mm_unet",
            {"mixer": "conv", "mixer_output": "scaled"},
            "have no 'scaled'; choose from bare, residual, norm",
        ),
        ("mm_unet", {"mixer": "mamba2", "headdim": 7}, "headdim 7 does not divide the 16 inner channels"),
    ],
)
def test_words_that_do_not_fit(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        create_network(name, **PLAN, **overrides)
