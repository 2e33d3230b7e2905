"""Our networks against outputs and gradients of the papers' own code.

The golden files hold inputs, outputs (in float64 where they say so) and gradient norms of U-Mamba (revision
28459e3), Taming Mambas (0f1881a), SegMamba (cff3597), VM-UNet (43c495b), Mamba-UNet (dfe92ba) and Swin-UMamba
(2c1f72e) under weights that follow from the parameters' names alone (`fill`); "strong" weights make the
outputs depend on the scan.
"""

import numpy as np
import pytest
import torch
from golden_files import fill, fill_vss, golden_file

from nnunet_mamba import create_network
from nnunet_mamba.blocks.mixers import MIXERS
from nnunet_mamba.checkpoints import convert_state_dict

UMAMBA = [
    f"umamba_{kind}" for kind in ("bot_2d", "bot_3d", "bot_3d_strong", "enc_2d", "enc_3d", "enc_3d_strong")
]
TAMING = ["taming_uni_3d", "taming_bi_3d", "taming_multi_3d"]


class Golden:
    """One golden file, the reference's state dict, and our network with its weights."""

    def __init__(self, name: str):
        self.file = golden_file(name)
        self.source = "umamba" if name in UMAMBA else "taming_mambas"
        self.config, shapes, aliases = (self.file.about[key] for key in ("config", "state_dict", "aliases"))
        self.parameters = [key for key in shapes if key not in aliases]
        values = {key: fill(key, shapes[key], "strong" in name) for key in self.parameters}
        self.state_dict = {key: values[aliases.get(key, key)] for key in shapes}
        short = {  # the files of the two sources name the same things differently
            "input_channels": "channels",
            "num_classes": "classes",
            "features_per_stage": "features",
            "strides": "strides",
            "kernel_sizes": "kernels",
            "n_conv_per_stage": "n_blocks",
            "n_conv_per_stage_decoder": "n_blocks_decoder",
        }
        config = self.config
        self.network = create_network(
            f"umamba_{config['kind']}" if self.source == "umamba" else f"mamba_{config['variant']}",
            **{full: config.get(full, config.get(brief)) for full, brief in short.items()},
            patch_size=self.file.input.shape[2:],
            deep_supervision=True,
        )
        self.network.load_state_dict(convert_state_dict(self.state_dict, self.source))


@pytest.fixture(params=UMAMBA + TAMING)
def golden(request):
    return Golden(request.param)


def test_equals_the_papers_code_in_float64(golden):
    with torch.no_grad():
        outputs = golden.network.double()(golden.file.input.double())
    for output, truth in zip(outputs, golden.file.outputs.values(), strict=True):
        assert truth.values.dtype == np.float64
        assert truth.error(output) < 1e-8


def test_parameter_count_to_the_digit(golden):
    assert sum(p.numel() for p in golden.network.parameters()) == golden.config["n_params"]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [(name, 1e-2 if "enc" in name else 1e-4) for name in UMAMBA],  # Enc amplifies their float32 rounding
)
def test_gradient_norms(name, tolerance):
    """Of the sum over outputs of mean(out**2), ours in float64, theirs in float32; those that are zero but
    for rounding (biases before a norm) are left out."""
    golden = Golden(name)
    loss = sum(output.square().mean() for output in golden.network.double()(golden.file.input.double()))
    assert loss.item() == pytest.approx(golden.config["loss"], rel=tolerance)
    loss.backward()
    ours = convert_state_dict({name: name for name in golden.parameters}, "umamba")
    theirs = {name: golden.file.about["grad_norms"][source] for name, source in ours.items()}
    largest, compared = max(theirs.values()), 0
    for name, parameter in golden.network.named_parameters():
        if theirs[name] > 1e-3 * largest:
            assert parameter.grad.norm().item() == pytest.approx(theirs[name], rel=tolerance), name
            compared += 1
    assert compared > 20


def test_without_deep_supervision_it_is_the_largest_output(golden):
    with torch.no_grad():
        largest = golden.network(golden.file.input)[0]
        golden.network.decoder.deep_supervision = False
        assert torch.equal(golden.network(golden.file.input), largest)


def test_other_peoples_prefixes_and_second_names_do_not_matter(golden):
    prefixed = {f"module._orig_mod.{key}": value for key, value in golden.state_dict.items()}
    plain = {key: golden.state_dict[key] for key in golden.parameters}
    for state_dict in (prefixed, plain):
        converted = convert_state_dict(state_dict, golden.source)
        assert converted.keys() == golden.network.state_dict().keys()


LAYERS = {  # of taming_layers.npz: our mixer, and its names for theirs
    "uni_layer": ({"order": "uni"}, [("mamba.mamba.", "walks.0.mamba."), ("mamba.", "walks.0.")]),
    "bi_layer": (
        {"order": "bi"},
        [
            ("mamba.fwd_mamba.", "walks.0."),
            ("mamba.bwd_mamba.", "walks.1."),
            ("mamba.norm.", "pair_norms.0."),
        ],
    ),
    "multi_layer": (
        {"order": "DHW,-DHW,DWH,-DWH,HDW,-HDW,WDH,-WDH", "d_state": 64},
        [
            rule
            for pair in range(4)
            for rule in (
                (f"mambas.{pair}.fwd_mamba.", f"walks.{2 * pair}."),
                (f"mambas.{pair}.bwd_mamba.", f"walks.{2 * pair + 1}."),
                (f"mambas.{pair}.norm.", f"pair_norms.{pair}."),
            )
        ],
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_taming_mambas_layers_alone(layer):
    """With larger scan weights than the networks' files have: a wrong direction would move them by 1."""
    golden = golden_file("taming_layers")
    options, names = LAYERS[layer]
    mixer = MIXERS["mamba_trans"](16, 3, **options).double()
    state_dict = {}
    for name, shape in golden.about["params"][layer].items():
        strong = any(
            part in name for part in ("in_proj.", "conv1d.", "x_proj.", "dt_proj.weight", "out_proj.")
        )
        theirs, ours = next(((old, new) for old, new in names if name.startswith(old)), ("", ""))
        state_dict[ours + name.removeprefix(theirs)] = fill(name, shape) * (6 if strong else 1)
    mixer.load_state_dict(state_dict)
    with torch.no_grad():
        output = mixer(golden.inputs[f"{layer}_in"].double())
    assert golden.outputs[f"{layer}_out"].difference(output) < 2e-5


def test_segmamba_equals_its_code_in_float64():
    golden = golden_file("segmamba_3d")
    config = golden.about["config"]
    network = create_network(
        "segmamba",
        input_channels=config["in_chans"],
        num_classes=config["out_chans"],
        features_per_stage=config["feat_size"],
        hidden_size=config["hidden_size"],
        depths=config["depths"],
        n_slices=config["nslices"],
    )
    state_dict = {key: fill(key, shape) for key, shape in golden.about["state_dict"].items()}
    network.load_state_dict(convert_state_dict(state_dict, "segmamba"))
    assert sum(p.numel() for p in network.parameters()) == config["n_params"]
    with torch.no_grad():
        output = network.double()(golden.input.double())
    assert golden.outputs["out0"].error(output) < 1e-12


VSS = {  # our name, and the source's
    "vmunet": ("vm_unet", "vm_unet"),
    "mambaunet": ("mamba_unet", "mamba_unet"),
    "swinumamba": ("swin_umamba", "swin_umamba"),
    "swinumamba_d": ("swin_umamba_d", "swin_umamba"),
}


@pytest.mark.parametrize("strong", ["", "_strong"])
@pytest.mark.parametrize("file", VSS)
def test_vss_unets_equal_their_code(file, strong):
    """Outputs and gradients in float64 against theirs in float32."""
    golden, (name, source) = golden_file(file + strong), VSS[file]
    shapes, theirs = golden.about["state_dict"], golden.about["grad_norms"]
    truths = list(golden.outputs.values())
    widths = [16, 32, 64, 128]
    network = create_network(
        name,
        input_channels=3 if name == "vm_unet" else 1,
        num_classes=truths[0].shape[1],
        features_per_stage=[8, *widths] if name == "swin_umamba" else widths,
        deep_supervision=True,
    ).eval()
    state_dict = {key: fill_vss(key, shape, bool(strong)) for key, shape in shapes.items()}
    network.load_state_dict(convert_state_dict(state_dict, source))
    assert sum(p.numel() for p in network.parameters()) == golden.about["n_params"]
    outputs = network.double()(golden.input.double())
    for output, truth in zip(outputs, truths, strict=True):
        assert truth.error(output) < 1e-5
    sum(
        (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(4321 + i))).sum()
        for i, output in enumerate(outputs)
    ).backward()
    names = convert_state_dict({key: key for key in shapes}, source)
    largest = max(theirs.values())
    for key, parameter in network.named_parameters():
        if theirs[names[key]] > 1e-3 * largest:
            assert parameter.grad.norm().item() == pytest.approx(theirs[names[key]], rel=2e-3), key
