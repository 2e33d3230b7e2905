"""One contract for every network of the table: shapes, heads, plans of every kind, twins, precision,
compilation."""

import math
import operator
import shutil
from dataclasses import replace
from itertools import accumulate, permutations

import pytest
import torch
from published_plans import ABDOMEN_CT
from torch import nn

from nnunet_mamba import create_network, list_networks, networks
from nnunet_mamba.analysis.activations import measure_spreads
from nnunet_mamba.blocks.large_kernel import LargeKernelMixer
from nnunet_mamba.blocks.mamba import Mamba, SelectiveSSM
from nnunet_mamba.blocks.mamba_trans import MambaTransMixer
from nnunet_mamba.blocks.meta import MetaBlock
from nnunet_mamba.blocks.mixers import KINDS, OUTPUTS, TokenMixer, VoxelMixer
from nnunet_mamba.blocks.vss import VSSBlock
from nnunet_mamba.checkpoints.meta_key_maps import convert_umamba2
from nnunet_mamba.networks.config import MetaConfig
from nnunet_mamba.networks.family import FAMILY, get_config, supported_ndims
from nnunet_mamba.networks.geometry import Sizes
from nnunet_mamba.networks.meta_unet import MetaUNet
from nnunet_mamba.networks.nn_mamba_unet import MambaBranch
from nnunet_mamba.networks.twins import select_shared, without_mixers
from nnunet_mamba.networks.unet import is_alias
from nnunet_mamba.scan_order import scan_order

NETWORKS = list_networks()
META = [name for name in NETWORKS if isinstance(FAMILY[name.removesuffix("_nossm")], MetaConfig)]
MIXERS = (TokenMixer, MambaTransMixer, LargeKernelMixer, VSSBlock, MambaBranch, Mamba)
WITH_MIXER = [name for name in NETWORKS if f"{name}_nossm" in NETWORKS]


def plan(n_stages=3, ndim=3, channels=1, classes=3, **changes):
    return {
        "input_channels": channels,
        "num_classes": classes,
        "features_per_stage": [min(4 * 2**s, 16) for s in range(n_stages)],
        "strides": [[1] * ndim] + [[2] * ndim] * (n_stages - 1),
        "kernel_sizes": [[3] * ndim] * n_stages,
        **changes,
    }


VSS = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "drop_path": 0.0}
FIXED = {  # small sizes of the networks whose topology is their own, and a grid that they must pad
    "segmamba": ({"features_per_stage": [4, 4, 8, 8], "depths": [1, 1, 1, 2], "d_state": 4}, (24, 16, 19)),
    "vm_unet": (VSS, (40, 56)),
    "mamba_unet": (VSS, (40, 56)),
    "swin_umamba": ({**VSS, "features_per_stage": [4, 8, 16, 32, 64]}, (40, 56)),
    "swin_umamba_d": (VSS, (40, 56)),
    "lightm_unet": (
        {"features_per_stage": [8, 8, 16, 16], "depths": [1, 1, 1, 2], "d_state": 4},
        (12, 8, 19),
    ),
    "nnmamba": ({"features_per_stage": [16, 16, 16, 16], "depths": [1, 2, 3], "d_state": 4}, (24, 16, 19)),
    "segmamba_v2": (
        {"features_per_stage": [8, 8, 8, 16], "depths": [1, 1, 1, 2], "d_state": 4},
        (24, 16, 19),
    ),
}


def small(name):
    """Arguments for a small network of that name, and the grid of an input for it."""
    base = name.removesuffix("_nossm")
    if base == "xlstm_unet_enc":  # no mixer in the first three stages
        return plan(4, patch_size=[16, 16, 16]), (16, 16, 16)
    if base not in FIXED:
        return plan(patch_size=[8, 8, 8]), (8, 8, 8)
    sizes, grid = FIXED[base]
    if base != name:
        sizes = {key: value for key, value in sizes.items() if key != "d_state"}
    return {"input_channels": 1, "num_classes": 3, **sizes}, grid


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def find_mixers(network):
    """The mixers that are not part of another."""
    found = {name: module for name, module in network.named_modules() if isinstance(module, MIXERS)}
    return [module for name, module in found.items() if not any(name.startswith(f"{n}.") for n in found)]


PLANS = {
    "3d": (plan(), (16, 8, 12)),
    "2d": (plan(ndim=2, channels=3), (16, 24)),
    "2 stages": (plan(2), (4, 6, 4)),
    "8 stages in 2d": (plan(8, ndim=2), (256, 128)),
    "anisotropic": (
        plan(
            4,
            strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
            kernel_sizes=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        ),
        (4, 16, 24),
    ),
    "stride 3": (plan(strides=[[1, 1, 1], [3, 1, 2], [1, 2, 2]]), (6, 8, 8)),
    "indivisible": (plan(4), (13, 17, 10)),
    "4 channels, one class": (plan(channels=4, classes=1), (8, 8, 8)),
    "counts per stage": (plan(n_conv_per_stage=[1, 2, 3], n_conv_per_stage_decoder=[1, 2]), (8, 8, 8)),
    "numbers for lists": (plan(strides=[1, 2, 2], kernel_sizes=[3, 3, 3], patch_size=[8, 8, 8]), (8, 8, 8)),
}


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize(("arguments", "grid"), PLANS.values(), ids=PLANS)
def test_logits_have_the_grid_of_the_input_and_every_parameter_learns(name, arguments, grid):
    if name == "mamba_multi" and len(grid) == 2:
        arguments = {**arguments, "order": "multi"}  # its published orders are those of volumes
    network = create_network(name, **{**arguments, "patch_size": grid}, deep_supervision=True)
    logits = network(torch.randn(2, arguments["input_channels"], *grid))
    strides = torch.tensor(
        [[s] * len(grid) if isinstance(s, int) else s for s in arguments["strides"]]
    ).cumprod(0)
    n_heads = min(len(strides) - 1, 3) if name.startswith("mm_unet") else len(strides) - 1
    expected = [
        tuple(round(g / s) for g, s in zip(grid, steps, strict=True)) for steps in strides.tolist()[:n_heads]
    ]
    assert [tuple(y.shape) for y in logits] == [(2, arguments["num_classes"], *size) for size in expected]
    sum(y.square().mean() for y in logits).backward()
    unused = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not unused, "DistributedDataParallel would stop at these"


@pytest.mark.parametrize("word", [{}, {"mixer": "conv"}], ids=["own mixer", "conv"])
@pytest.mark.parametrize(("name", "ndim"), [(name, ndim) for name in FIXED for ndim in FAMILY[name].ndims])
def test_every_patch_fits_networks_with_a_topology_of_their_own(name, ndim, word):
    """Padded to what they need; every output as large as nnU-Net makes its target."""
    network = create_network(name, **small(name)[0], **word, patch_size=[32] * ndim, deep_supervision=True)
    strides = FAMILY[name].output_strides
    grids = (
        [(14, 20), (33, 31), (64, 96), (40, 193)] if ndim == 2 else [(14, 33, 16), (5, 7, 17), (32, 16, 16)]
    )
    for grid in grids:
        logits = network(torch.randn(2, 1, *grid))
        assert [tuple(y.shape[2:]) for y in logits] == [tuple(round(g / s) for g in grid) for s in strides]
        sum(y.square().mean() for y in logits).backward()
    assert not [key for key, parameter in network.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_black_background_are_of_sound_size(name):
    """As images with a mask, and every padded patch, have one."""
    torch.manual_seed(0)
    arguments, grid = small(name)
    network = create_network(name, **arguments, deep_supervision=True)
    x = torch.randn(2, 1, *grid)
    x[..., grid[-1] // 2 :] = 0
    sum(y.square().mean() for y in network(x)).backward()
    assert all(parameter.grad.norm() < 1e4 for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_deep_supervision_is_a_switch_and_not_another_network(name):
    torch.manual_seed(0)
    arguments, grid = small(name)
    network, x = create_network(name, **arguments).eval(), torch.randn(1, 1, *grid)
    single = network(x)
    network.decoder.deep_supervision = True
    assert torch.equal(network(x)[0], single)
    other = create_network(name, **arguments, deep_supervision=True)
    assert network.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("name", META)
def test_residual_encoder_plans_count_blocks(name):
    arguments = plan(patch_size=[8, 8, 8], n_blocks_per_stage=[1, 2, 3], n_conv_per_stage_decoder=1)
    if name == "nnunet":
        with pytest.raises(ValueError, match="n_blocks_per_stage counts residual blocks"):
            create_network(name, **arguments)
        return
    network = create_network(name, **arguments)
    assert network(torch.randn(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    assert count(network) != count(
        create_network(name, **plan(patch_size=[8, 8, 8], n_conv_per_stage_decoder=1))
    )


def nnunets_own(name, ndim, arguments):
    """A network of nnU-Net's, of four stages, as nnU-Net builds it from plans."""
    from dynamic_network_architectures.architectures import unet
    from dynamic_network_architectures.building_blocks import helper

    conv = helper.convert_dim_to_conv_op(ndim)
    return getattr(unet, name)(
        n_stages=4,
        conv_op=conv,
        conv_bias=True,
        norm_op=helper.get_matching_instancenorm(conv),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **arguments,
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_control_is_nnunets_own_network(ndim):
    arguments = plan(4, ndim, n_conv_per_stage=[2, 2, 3, 1], n_conv_per_stage_decoder=[2, 1, 2])
    theirs = nnunets_own("PlainConvUNet", ndim, arguments)
    ours = create_network("nnunet", **arguments, deep_supervision=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 1, *[16] * ndim)
    for a, b in zip(ours(x), theirs(x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("ndim", [2, 3])
def test_umamba2_without_mamba_is_nnunets_residual_encoder(ndim):
    """With its weights, under the names of U-Mamba2's code, which are nnU-Net's but for the Mamba layer."""
    arguments = plan(4, ndim, n_blocks_per_stage=[1, 2, 3, 2], n_conv_per_stage_decoder=[2, 1, 1])
    theirs = nnunets_own("ResidualEncoderUNet", ndim, arguments).double()
    ours = create_network("umamba2_nossm", **arguments, deep_supervision=True).double()
    weights = {key: value for key, value in theirs.state_dict().items() if not is_alias(key)}
    ours.load_state_dict(convert_umamba2(weights, {}))
    x = torch.randn(2, 1, *[16] * ndim, dtype=torch.float64)
    for a, b in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nnunet", 30_713_158),  # nnU-Net's own count
        ("umamba_bot", 41_945_158),  # U-Mamba's code; 41.95 M in Taming Mambas, table 1
        ("umamba_bot_nossm", 41_945_158 - 675_840),  # less its one Mamba layer of 320 channels
        ("umamba_enc", 42_842_798),
        ("mamba_uni", 60_800_966),  # Taming Mambas' code; their paper has 61.49, 64.75 and 68.46 M
        ("mamba_bi", 64_445_606),
        ("mamba_multi", 77_653_734),
        ("mamba_uni_nossm", 57_156_326),
        ("mamba_multi_nossm", 57_156_326),
    ],
)
def test_parameters_of_the_published_plan(name, parameters):
    with torch.device("meta"):
        assert count(create_network(name, **ABDOMEN_CT)) == parameters


ABDOMEN_MR_2D = {
    "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
    "strides": [[1, 1], *[[2, 2]] * 6],
    "kernel_sizes": [[3, 3]] * 7,
}


@pytest.mark.parametrize(
    ("name", "patch", "changes", "parameters"),
    [  # counted in the papers' code
        ("umamba_bot", [320, 320], ABDOMEN_MR_2D, 47_533_012),
        ("umamba_enc", [320, 320], ABDOMEN_MR_2D, 47_015_538),
        ("umamba_bot", [384, 640], {**ABDOMEN_MR_2D, "input_channels": 3, "num_classes": 8}, 47_524_592),
        ("umamba_enc", [384, 640], {**ABDOMEN_MR_2D, "input_channels": 3, "num_classes": 8}, 47_680_592),
        ("umamba_enc", [48, 192, 192], {}, 42_859_142),  # Synapse
        (
            "mamba_bi",
            [128, 128, 128],
            {"input_channels": 4, "num_classes": 4, "strides": [1, 2, 2, 2, 2, 2]}
            | {"kernel_sizes": [[3, 3, 3]] * 6},
            65_024_404,
        ),  # BrainTumour
    ],
)
def test_parameters_of_other_published_plans(name, patch, changes, parameters):
    with torch.device("meta"):
        assert count(create_network(name, **ABDOMEN_CT | changes | {"patch_size": patch})) == parameters


@pytest.mark.parametrize(
    ("name", "channels", "classes", "options", "parameters"),
    [  # at their papers' sizes, counted in their code
        ("segmamba", 1, 13, {}, 67_363_213),
        ("segmamba", 4, 4, {}, 67_416_196),
        ("vm_unet", 3, 1, {}, 27_427_561),
        ("vm_unet", 3, 9, {}, 27_427_761),
        ("vm_unet", 3, 1, {"depths_decoder": [2, 2, 2, 2]}, 27_532_969),
        ("vm_unet", 3, 1, {"depths": [2, 2, 3, 2], "depths_decoder": [2, 3, 2, 2]}, 29_924_521),
        ("vm_unet", 3, 1, {"depths": [2, 2, 9, 2], "depths_decoder": [2, 9, 2, 2]}, 44_273_833),
        ("mamba_unet", 1, 4, {}, 19_121_664),
        ("mamba_unet", 3, 9, {}, 19_122_144),
        ("mamba_unet", 3, 4, {"depths": [2, 2, 9, 2]}, 35_862_528),
        ("swin_umamba", 1, 14, {}, 59_889_368),
        ("swin_umamba", 3, 8, {}, 59_890_688),
        ("swin_umamba_d", 1, 14, {}, 27_497_720),
        ("swin_umamba_d", 3, 3, {}, 27_492_300),
        ("lightm_unet", 1, 14, {}, 5_016_129),
        ("lightm_unet", 1, 3, {"features_per_stage": [24, 48, 96, 192]}, 2_889_774),
        ("lightm_unet", 3, 2, {"patch_size": [64, 64]}, 5_011_765),
        ("lightm_unet_nossm", 1, 14, {}, 738_689),
        ("nnmamba", 1, 14, {}, 15_956_238),
        ("nnmamba", 4, 4, {}, 15_945_270),
        ("nnmamba_nossm", 1, 14, {}, 15_195_534),
        ("segmamba_v2", 1, 14, {}, 138_773_282),
        ("segmamba_v2", 4, 4, {}, 138_776_824),
        ("segmamba_v2_nossm", 1, 14, {}, 136_340_258),
        ("lightm_unet_nossm", 1, 14, {"stand_in": "convolution"}, 738_689 + 27 * 3_104),
    ],
)
def test_parameters_of_networks_with_a_topology_of_their_own(name, channels, classes, options, parameters):
    with torch.device("meta"):
        network = create_network(name, input_channels=channels, num_classes=classes, **options)
    assert count(network) == parameters


def test_parameters_of_mm_unet_by_hand():
    """Stages of 4 and 8 channels, one class, 3x3x3; see docs/mm-unet.md for the parts."""
    network = create_network("mm_unet", **plan(2, classes=1, features_per_stage=[4, 8]))
    norm = {4: 8, 8: 16}
    stage0 = (27 * 1 * 4 + 4 + norm[4]) + (27 * 4 * 4 + 4 + norm[4])
    down, branch = 27 * 4 * 8 + 8 + norm[8], 2 * (27 * 8 * 8 + 8 + norm[8])
    per_direction = (
        16 * 4 + 16 + (1 + 32) * 16 + (16 + 16) + 16 * 16 + 16
    )  # conv1d, x_proj, dt_proj, A_log, D; E = 16
    mixer = 16 + 8 * 32 + 2 * per_direction + 16 * 8  # LayerNorm, in_proj, two directions, out_proj
    up, head = 8 * 8 * 4 + 4, 4 + 1
    decoder = (27 * 8 * 4 + 4 + norm[4]) + (27 * 4 * 4 + 4 + norm[4]) + (8 * 4 + norm[4])
    assert count(network) == stage0 + down + branch + mixer + up + decoder + head


@pytest.mark.parametrize("name", WITH_MIXER)
def test_the_twin_differs_by_its_mixers_and_by_nothing_else(name):
    arguments, grid = small(name)
    network, twin = (
        create_network(name, **arguments),
        create_network(f"{name}_nossm", **small(f"{name}_nossm")[0]),
    )
    mixers = find_mixers(network)
    assert mixers
    assert not [key for key, _ in twin.named_parameters() if "A_log" in key or "dt_proj" in key]
    assert not find_mixers(twin)
    assert count(network) - count(twin) == sum(count(mixer) for mixer in mixers)
    weights = network.state_dict()
    assert all(weights[key].shape == value.shape for key, value in twin.state_dict().items())
    x = torch.randn(2, 1, *grid)
    assert network(x).shape == twin(x).shape


def make_identities(network):
    """Let each place of a mixer return its input, or nothing where a sum has the mixer's input already; by
    hooks, so that the network, its layers and its weights are as they were."""
    replaced = set()
    for name, module in network.named_modules():
        if any(name.startswith(f"{above}.") for above in replaced):
            continue
        is_sum = isinstance(module, VSSBlock) or (isinstance(module, MetaBlock) and module.placement == "ssm")
        if is_sum or isinstance(module, (TokenMixer, MambaTransMixer, LargeKernelMixer)):
            module.register_forward_hook(lambda module, given, output: given[0].clone())
        elif isinstance(module, (MambaBranch, Mamba)):  # of nnMamba, and LightM-UNet's
            module.register_forward_hook(lambda module, given, output: torch.zeros_like(output))
        else:
            continue
        replaced.add(name)
    return network


SWITCHED = [
    *((name, {"final_act": False} if name == "nnmamba" else {}) for name in WITH_MIXER),  # no logits of 0
    *(("mm_unet", {"mixer_output": word}) for word in OUTPUTS),
    *(("umamba_bot", {"mixer": kind}) for kind in (*KINDS, "conv")),
    ("mm_unet", {"encoder": ("ssm",), "bottleneck": "ssm", "decoder": ("hybrid_outside", "ssm")}),
    ("mm_unet", {"mixer_output": "bare", "mixer_per": "stage", "decoder": "hybrid_inside"}),
]


@pytest.mark.parametrize(("name", "overrides"), SWITCHED)
def test_a_network_without_its_mixers_is_the_network_with_identities_in_their_places(name, overrides):
    """Equal in float64, with weights that training has moved away from where they were initialised."""
    arguments, grid = small(name)
    network = create_network(name, **{**arguments, **overrides}, deep_supervision=True).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in network.named_buffers():
            if "running_var" in key:
                buffer.uniform_(0.5, 1.5)
        x = torch.randn(1, 1, *grid, dtype=torch.float64)
        twin = without_mixers(network)
        before = network(x)
        expected, found = make_identities(network)(x), twin(x)
    assert not find_mixers(twin) and not twin.training
    for one, other, mixed in zip(found, expected, before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(one, mixed, rtol=1e-3)


@pytest.mark.parametrize("name", WITH_MIXER)
def test_a_network_without_its_mixers_is_its_twin_by_name(name):
    """Layer by layer, as `create_network(..., mixer="none")` builds it."""
    arguments, _ = small(name)
    twin = without_mixers(create_network(name, **arguments))
    by_word = create_network(name, **small(f"{name}_nossm")[0], mixer="none")
    assert str(twin) == str(by_word) and twin.state_dict().keys() == by_word.state_dict().keys()


def test_mixers_are_switched_off_only_where_that_leaves_the_twin():
    with pytest.raises(ValueError, match=r"^Conv2d is not a network of this package"):
        without_mixers(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"^nnunet has no mixer to switch off"):
        without_mixers(create_network("nnunet", **plan()))
    with pytest.raises(ValueError, match=r"^mm_unet_nossm has no mixer"):
        without_mixers(create_network("mm_unet_nossm", **plan()))
    twin = without_mixers(create_network("mm_unet", **plan()))
    weights = dict(twin.state_dict())
    weights.popitem()
    weights["encoder.stages.0.0.convs.0.conv.weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"^mm_unet without its mixers is no part of the network: encoder"):
        select_shared(twin, weights)


def test_where_mm_unet_has_its_mixers():
    """Not at full resolution, in every encoder stage and the bottleneck, not in the decoder; two directions
    each."""
    network = create_network("mm_unet", **plan(4))
    places = [key for key, module in network.named_modules() if isinstance(module, VoxelMixer)]
    assert [key.split(".")[:3] for key in places] == [["encoder", "stages", str(s)] for s in (1, 2, 3)]
    assert all(
        [path.reverse for path in network.get_submodule(key).mamba.directions] == [False, True]
        for key in places
    )


def branches(ndim, **reading):
    """Of MM-UNet's residual branches with mixers, at first: standard deviations, and gradients of F."""
    torch.manual_seed(0)
    network = create_network("mm_unet", **plan(ndim=ndim, features_per_stage=[8, 16, 32]), **reading)
    x = torch.randn(2, 1, *[16] * ndim)
    inside = [one for one in measure_spreads(network, x) if one.part == "mixer"]
    network(x).square().mean().backward()
    blocks = [block for block in network.encoder.modules() if isinstance(block, MetaBlock)]
    gradients = [block.convs.convs[0].conv.weight.grad.norm() for block in blocks]
    return torch.tensor([one.variance for one in inside]).sqrt(), torch.stack(gradients)


@pytest.mark.parametrize("ndim", [2, 3])
def test_mm_unets_mixers_let_its_convolutions_through(ndim):
    """What a branch adds is as large as it was before its mixer; a bare mixer makes it a tenth or less, and
    the gradients of its convolutions a fifth or less."""
    deviations, gradients = branches(ndim)
    of_bare, gradients_of_bare = branches(ndim, mixer_output="bare")
    torch.testing.assert_close(deviations, torch.ones(2), atol=0.05, rtol=0)
    assert of_bare.max() < 0.1
    assert (gradients_of_bare / gradients).max() < 0.2


@pytest.mark.parametrize("ndim", [2, 3])
def test_u_mambas_2d_decoder_drops_the_skip_at_full_resolution(ndim):
    network = create_network("umamba_bot", **plan(3, ndim))
    last = network.decoder.stages[-1][0].convs.convs[0].conv
    assert last.in_channels == (4 if ndim == 2 else 8)


@pytest.mark.parametrize(
    ("n_stages", "ndim", "stages"),
    [(5, 2, [0, 2, 4]), (4, 2, [1, 3]), (4, 3, [0, 1, 2, 3])],
)
def test_in_2d_u_mamba_enc_has_a_mixer_in_every_second_stage_the_last_included(n_stages, ndim, stages):
    network = create_network("umamba_enc", **plan(n_stages, ndim, patch_size=[64] * ndim))
    names = [name.split(".") for name, _ in network.named_parameters() if name.endswith("A_log")]
    assert sorted({int(stage) for part, _, stage, *_ in names if part == "encoder"}) == stages


@pytest.mark.parametrize(
    ("n_stages", "encoder", "decoder"),
    [  # U-Mamba's rule, worked out by hand from its code
        (3, [2, 2, 1], [2, 2]),
        (4, [2, 2, 1, 1], [2, 2, 1]),
        (6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]),
        (8, [2, 2, 2, 2, 1, 1, 1, 1], [2, 2, 2, 2, 1, 1, 1]),
    ],
)
def test_u_mambas_deep_stages_have_one_block(n_stages, encoder, decoder):
    with torch.device("meta"):
        network = create_network("umamba_bot_nossm", **plan(n_stages))
    assert [len(stage) for stage in network.encoder.stages] == encoder
    assert [len(stage) for stage in network.decoder.stages] == decoder
    assert len(network.encoder.stem) == 2


def test_taming_mambas_directions_are_all_whose_fastest_axis_is_not_the_first_there_and_back():
    directions = {
        (direction.axes, direction.reverse) for direction in scan_order(FAMILY["mamba_multi"].mixer.order, 3)
    }
    assert directions == {(a, back) for a in permutations(range(3)) if a[-1] != 0 for back in (False, True)}


@pytest.mark.parametrize("name", ["vm_unet", "mamba_unet", "swin_umamba", "swin_umamba_d"])
def test_vss_directions_are_rows_and_columns_and_then_their_reverses(name):
    """In VMamba's order, by which the weights of its four directions are numbered."""
    rows, columns = scan_order("HW,WH", 2)
    directions = scan_order(FAMILY[name].mixer.order, 2)
    assert directions[:2] == (rows, columns) and [direction.reverse for direction in directions] == [
        False,
        False,
        True,
        True,
    ]
    assert [direction.axes for direction in directions[2:]] == [rows.axes, columns.axes]


def test_a_block_of_mixers_alone_has_two_of_them():
    """The two sequential modules of MM-UNet's ablation; a hybrid block has one."""
    for placement, n_mixers in (("ssm", 2), ("hybrid_inside", 1), ("hybrid_outside", 1), ("cnn", 0)):
        network = create_network("mm_unet", **plan(), encoder=("plain", placement), bottleneck="cnn")
        assert sum(isinstance(module, VoxelMixer) for module in network.modules()) == n_mixers


SSM_STAGES = {**plan(), "encoder": ("plain", "ssm"), "bottleneck": "ssm"}
SEGMAMBA = {"input_channels": 1, "num_classes": 2, **FIXED["segmamba"][0]}


@pytest.mark.parametrize(("name", "arguments"), [("mm_unet", SSM_STAGES), ("segmamba", SEGMAMBA)])
def test_where_a_block_adds_its_input_a_residual_of_the_mixer_changes_nothing(name, arguments):
    bare, residual = (
        create_network(name, **arguments, mixer_output=word).eval() for word in ("bare", "residual")
    )
    residual.load_state_dict(bare.state_dict())
    x = torch.randn(1, 1, 24, 16, 16)
    assert torch.equal(bare(x), residual(x))


def test_weights_of_a_bare_mixer_go_into_a_scaled_one_and_not_into_one_with_a_norm():
    bare, scaled, norm = (
        create_network("mm_unet", **plan(), mixer_output=word) for word in ("bare", "scaled", "norm")
    )
    scaled.load_state_dict(bare.state_dict())
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(bare(x), scaled(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*out_norm"):
        norm.load_state_dict(bare.state_dict())


@pytest.mark.parametrize("placement", ["plain", "cnn", "ssm", "hybrid_inside", "hybrid_outside"])
@pytest.mark.parametrize("order", ["uni", "multi", "raster", "-WHD,DHW"])
def test_every_placement_and_order_is_one_word(placement, order):
    network = create_network(
        "mm_unet",
        **plan(),
        encoder=("plain", placement),
        bottleneck=placement,
        decoder=(placement,),
        order=order,
        d_state=4,
        deep_supervision=True,
    )
    outputs = network(torch.randn(1, 1, 8, 8, 8))
    sum(y.sum() for y in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_convolutions_begin_as_nnunets_do():
    """He's normal for a slope of 0.01, and no bias; from the constructor on."""
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He

    network = create_network("nnunet", **plan())
    convs = [m for m in network.modules() if isinstance(m, (torch.nn.Conv3d, torch.nn.ConvTranspose3d))]
    assert len(convs) > 10 and not any(conv.bias.any() for conv in convs)
    for conv in (convs[1], convs[-2]):
        torch.manual_seed(0)
        network.initialize(conv)
        ours = conv.weight.clone()
        torch.manual_seed(0)
        InitWeights_He(1e-2)(conv)
        assert torch.equal(ours, conv.weight)


@pytest.mark.parametrize("name", [name for name in META if name in WITH_MIXER])
def test_initialize_leaves_the_ssm_alone(name):
    """nnU-Net applies `initialize` to every submodule."""
    torch.manual_seed(0)
    network = create_network(name, **small(name)[0])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.apply(network.initialize)
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert not [key for key in changed if ".mamba." in key or "norm" in key]
    for ssm in (module for module in network.modules() if isinstance(module, SelectiveSSM)):
        assert torch.equal(ssm.D, torch.ones_like(ssm.D))
        torch.testing.assert_close(
            ssm.A_log.exp(), torch.arange(1.0, ssm.A_log.shape[1] + 1).expand_as(ssm.A_log)
        )
        steps = nn.functional.softplus(ssm.dt_proj.bias)
        assert (steps > 0.9e-3).all() and (steps < 0.11).all()
        assert ssm.conv1d.bias.abs().max() > 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_finite_and_close_under_autocast(name, dtype):
    torch.manual_seed(0)
    arguments, grid = small(name)
    network, x = create_network(name, **arguments).eval(), torch.randn(1, 1, *grid)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=dtype):
            rough = network(x).float()
    assert rough.isfinite().all()
    amplified = {"umamba_enc": 0.4, "lightm_unet": 0.2, "lightm_unet_nossm": 0.2}  # norms in a row do that
    tolerance = amplified.get(name, 0.05)
    assert (rough - exact).norm() / exact.norm() < tolerance


# They have all kinds of blocks and decoders but those of which test_checkpointing.py compiles the gradients.
TRACED = ("umamba_enc", "mamba_bi", "vm_unet", "swin_umamba", "swin_umamba_d")


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "eager") for name in TRACED),
        *(pytest.param(name, "aot_eager", marks=pytest.mark.slow) for name in WITH_MIXER),
    ],
)
def test_traces_into_one_graph(name, backend):
    """Networks of the plans with two stages; for three see test_checkpointing.py."""
    arguments, grid = small(name)
    if name in META:
        grid = (4, 4, 4) if name == "umamba_enc" else grid  # scans channels, too
        arguments = plan(2, patch_size=grid)
    check_traced(create_network(name, **arguments, deep_supervision=True), grid, backend)


def check_traced(network, grid, backend):
    """Outputs and gradients of the one graph are the network's own."""
    x = torch.randn(1, 1, *grid)
    torch._dynamo.reset()  # else the networks before this one count as recompilations of its code
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    expected, actual = network(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    gradients = [
        torch.autograd.grad(sum(y.square().sum() for y in logits), list(network.parameters()))
        for logits in (actual, expected)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "conv"])
def test_mm_unet_traces_into_one_graph_with_every_kind_of_mixer(kind):
    network = create_network("mm_unet", **plan(2, patch_size=[8, 8, 8]), mixer=kind, deep_supervision=True)
    check_traced(network, (8, 8, 8), "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler for CPUs needs g++")
def test_mm_unet_compiles_to_machine_code():
    network, x = create_network("mm_unet", **plan(2)), torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(torch.compile(network, fullgraph=True)(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_plans_file_can_name_the_network(name):
    """The way in which nnU-Net builds a network from its plans."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    arguments, grid = small(name)
    channels, classes = arguments.pop("input_channels"), arguments.pop("num_classes")
    network = get_network_from_plans(
        f"nnunet_mamba.networks.{name}", arguments, [], channels, classes, True, True
    )
    logits = network(torch.randn(1, 1, *grid))
    assert isinstance(logits, list) and logits[0].shape == (1, 3, *grid)


def test_unknown_attributes_of_the_networks_module_are_errors():
    with pytest.raises(AttributeError, match="has no attribute 'resnet'"):
        networks.resnet  # noqa: B018


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mm_net", {}, "Unknown network 'mm_net'. Did you mean mm_unet"),
        ("nnunet_nossm", {}, "Unknown network 'nnunet_nossm'"),
        (
            "mm_unet",
            {"order": "spiral"},
            "Unknown scan order .spiral. in 3D, which has no direction .spiral.; choose one of uni, bi",
        ),
        ("nnunet", {"kind": "mamba"}, "kind: this network has no mixer, so there is no place for 'mamba'"),
        (
            "mm_unet",
            {"mixer": "mamba2", "kind": "mlstm"},
            "mixer='mamba2' and kind='mlstm' both say which mixer; give one of them",
        ),
        ("mm_unet", {"mixer": None, "kind": "mlstm"}, "mixer=None and kind='mlstm' both say"),
        ("mm_unet", {"kind": "vss"}, "kind: this network has no mixer 'vss'; choose from mamba, "),
        (
            "mm_unet",
            {"mixer_output": "gated"},
            "kind 'mamba' have no 'gated'; choose from bare, residual, norm",
        ),
        ("mamba_bi", {"mixer_output": "norm"}, "kind 'mamba_trans' have no 'norm'; choose from bare"),
        ("vm_unet", {"mixer_output": "norm"}, "kind 'vss' have no 'norm'; choose from bare"),
        ("mm_unet", {"depth": 3}, "Unknown override depth; known are .*order"),
        ("mm_unet", {"bottleneck": "attention"}, "bottleneck: unknown 'attention'; choose from plain, cnn"),
        ("mm_unet_nossm", {"order": "uni"}, "order: this network has no mixer"),
        ("mm_unet", {"strides": None}, "Missing: strides. .*plans"),
        ("mm_unet", {"kernel_sizes": None}, "Missing: kernel_sizes"),
        (
            "mm_unet",
            {"strides": [[1, 1, 1], [2, 2, 2]]},
            "strides has 2 entries, but features_per_stage has 3",
        ),
        ("mm_unet", {"kernel_sizes": [[3, 3]] * 3}, r"must agree on 2 or 3 axes, got \[2, 3\]"),
        ("mm_unet", {"kernel_sizes": [[2, 3, 3]] * 3}, "Kernel sizes must be odd"),
        ("mm_unet", {"strides": [1, 2, 2], "kernel_sizes": [3, 3, 3]}, "only numbers"),
        ("mm_unet", {"n_conv_per_stage": [2, 2]}, "n_conv_per_stage must be a positive number or 3 of them"),
        ("mm_unet", {"n_conv_per_stage_decoder": 0}, "n_conv_per_stage_decoder must be a positive number"),
        ("mm_unet", {"features_per_stage": [4]}, "at least 2 stages"),
        ("mm_unet", {"num_classes": 0}, "at least one channel and one class"),
        (
            "mm_unet",
            {"patch_size": [2, 16, 16]},
            r"Patch \(2, 16, 16\) is too small for 3 stages.*\(4, 4, 4\)",
        ),
        ("mm_unet", {"patch_size": [4, 4, 4]}, "too small for 3 stages"),
        ("umamba_enc", {}, "patch_size is missing: the weights of this network depend on it"),
        ("mamba_bi", {"order": "a,b,c"}, "one direction or pairs of them; scan order 'a,b,c' has 3"),
    ],
)
def test_bad_arguments_say_what_came_and_what_to_do(name, change, message):
    with pytest.raises(ValueError, match=message):
        create_network(name, **(plan() | change))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vm_unet", {"features_per_stage": [8, 16, 32]}, r"4 entries .* such as \[96, 192, 384, 768\]; got"),
        (
            "vm_unet",
            {"features_per_stage": [8, 16, 32, 48]},
            "From one VSS stage to the next features double",
        ),
        ("vm_unet", {"strides": [1, 2, 2, 2]}, r"strides of this network are \[4, 2, 2, 2\], not"),
        ("segmamba", {"kernel_sizes": [5, 3, 3, 3]}, r"kernel_sizes of this network are \[3, 3, 3, 3\]"),
        (
            "segmamba",
            {"n_conv_per_stage": 3},
            "does not count convolutions; leave them out, or set its depths",
        ),
        (
            "vm_unet",
            {"patch_size": [32, 32, 32]},
            r"works in 2D, but patch_size is \[32, 32, 32\]; give 2 num.* 2d",
        ),
        ("vm_unet", {"strides": [[4] * 3, [2] * 3]}, r"an entry of strides is \[4, 4, 4\]; give 2 numbers"),
        (
            "segmamba",
            {"patch_size": [64, 64]},
            r"works in 3D, but patch_size is \[64, 64\]; give 3 .* 3d_fullres",
        ),
        ("swin_umamba", {"depths": [2, 2]}, "depths must be a positive number or 4 of them"),
        ("swin_umamba", {"depths_decoder": [2, 2, 2]}, "Unknown override depths_decoder; known are .*depths"),
        ("mamba_unet", {"depths_decoder": [2, 2]}, "depths_decoder must be a positive number or 3 of them"),
        ("vm_unet", {"input_channels": 0}, "at least one channel and one class"),
        ("lightm_unet", {"features_per_stage": [8, 12, 16, 16]}, r"multiples of 8; got \[8, 12, 16, 16\]"),
        (
            "lightm_unet",
            {"patch_size": [8] * 4},
            r"2D and 3D, but .*\[8, 8, 8, 8\]; give 2 or 3 .*2d or 3d_fullres",
        ),
        ("lightm_unet", {"mixer_output": "residual"}, "has no 'residual'; choose from bare"),
        ("lightm_unet", {"stand_in": "pooling"}, "stand_in: unknown 'pooling'; choose from nothing, conv"),
        ("lightm_unet", {"stand_in": "convolution"}, "only the twin has something else in Mamba's place"),
        ("nnmamba", {"features_per_stage": [8] * 4}, "needs 16 features or more"),
        ("nnmamba", {"depths": [1, 1]}, "depths must be a positive number or 3 of them"),
        (
            "segmamba_v2",
            {"features_per_stage": [8, 4, 8, 8]},
            r"needs 8 features or more .*; got \[8, 4, 8, 8\]",
        ),
        ("vm_unet", {"d_conv": 4}, "d_conv: the 2D convolution of a VSS block needs an odd width, got 4"),
    ],
)
def test_bad_sizes_of_networks_with_their_own_topology_say_so(name, change, message):
    with pytest.raises(ValueError, match=message):
        create_network(name, **(small(name)[0] | change))


def test_one_word_for_all_stages_may_be_given_alone():
    words, alone = ({"encoder": encoder, "bottleneck": "ssm"} for encoder in (["ssm"], "ssm"))
    one, other = (create_network("mm_unet", **plan(), **given) for given in (words, alone))
    assert one.state_dict().keys() == other.state_dict().keys()


def test_sizes_that_agree_may_be_given():
    given = {
        "strides": [[4, 4], [2, 2], [2, 2], [2, 2]],
        "kernel_sizes": [[3, 3]] * 4,
        "patch_size": [64, 64],
    }
    assert count(create_network("vm_unet", **small("vm_unet")[0], **given)) > 0


@pytest.mark.parametrize("name", META)
def test_shapes_are_known_without_any_memory(name):
    """A full abdominal patch on the meta device, as nnU-Net's planners estimate."""
    with torch.device("meta"):
        logits = create_network(name, **ABDOMEN_CT, deep_supervision=True)(torch.empty(2, 1, 40, 224, 192))
    assert logits[0].shape == (2, 14, 40, 224, 192)
    assert logits[2].shape == (2, 14, 20, 56, 48)


def test_an_input_smaller_than_the_strides_is_refused():
    with pytest.raises(ValueError, match=r"Patch \(2, 8, 8\) is too small"):
        create_network("nnunet", **plan())(torch.randn(1, 1, 2, 8, 8))


def test_arguments_are_left_as_they_were():
    arguments = plan(4, n_conv_per_stage=[2, 2, 2, 2], n_conv_per_stage_decoder=[2, 2, 2])
    create_network("umamba_bot", **arguments)
    assert arguments["n_conv_per_stage"] == [2, 2, 2, 2]
    assert arguments["n_conv_per_stage_decoder"] == [2, 2, 2]


def test_full_resolution_cost_is_known():
    """The number of tokens that MM-UNet's largest scan has is that of stage 1."""
    network = create_network("mm_unet", **plan(3))
    seen = []
    for module in network.modules():
        if isinstance(module, VoxelMixer):
            module.register_forward_hook(lambda _, inputs, __: seen.append(math.prod(inputs[0].shape[2:])))
    network(torch.randn(1, 1, 16, 16, 16))
    assert seen == [8**3, 4**3]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("nnunet", (2, 3)),
        ("mm_unet_nossm", (2, 3)),
        ("mamba_multi", (3,)),
        ("vm_unet", (2,)),
        ("segmamba", (3,)),
        ("lightm_unet", (2, 3)),
        ("segmamba_v2", (3,)),
        ("nnmamba", (3,)),
    ],
)
def test_the_axes_that_a_network_works_on(name, axes):
    assert supported_ndims(name) == axes


@pytest.mark.parametrize("name", FIXED)
def test_strides_in_a_plan_lead_from_output_to_output_and_on_to_the_coarsest_grid(name):
    """nnU-Net supervises all resolutions of a plan's strides but the last."""
    config = get_config(name)
    totals = tuple(accumulate(config.plan_strides(), operator.mul))
    assert totals[:-1] == config.output_strides
    assert totals[-1] == math.prod(config.strides)
    with torch.device("meta"):
        for ndim in config.ndims:
            strides = [[stride] * ndim for stride in config.plan_strides()]
            network = create_network(name, input_channels=1, num_classes=2, strides=strides)
            assert len(network.multiple) == ndim


def test_a_network_whose_operations_were_counted_loads_its_own_state_dict():
    """thop's counter leaves two buffers in every module."""
    network = create_network("umamba_bot", **small("umamba_bot")[0])
    for module in list(network.modules()):
        for name in ("total_ops", "total_params"):
            module.register_buffer(name, torch.zeros(1))
    network.load_state_dict(network.state_dict())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", [n for n, c in FAMILY.items() if isinstance(c, MetaConfig) and c.mixer])
def test_where_a_mixer_would_be_is_nothing_to_a_twin(name, ndim):
    """The config without SSM forgets placements and quirks of mixers: it builds the network that identities
    in their places make, layer by layer and number by number."""
    config = FAMILY[name]
    sizes = Sizes(1, 2, [4, 6, 8, 10], [1, 2, 2, 2], [3, 3, 3, 3], 2, 2, None, [16] * ndim)
    networks = []
    for each in (replace(config, mixer=None), config.without_ssm()):
        torch.manual_seed(0)
        networks.append(MetaUNet(each, sizes, True).eval())
    with_identities, twin = networks
    assert str(with_identities) == str(twin)
    x = torch.ones(1, 1, *[16] * ndim)
    assert all(torch.equal(a, b) for a, b in zip(with_identities(x), twin(x), strict=True))
