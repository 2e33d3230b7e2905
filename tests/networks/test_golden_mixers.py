"""Rows of the meta-architecture with other mixers than Mamba: outputs and gradients of the papers' code.

The golden files are those of U-Mamba2 (revision 44fbf60), xLSTM-UNet (6176c06) and LKM-UNet (6615775), all in
float64.
"""

import math

import pytest
import torch
from golden_files import fill_mixers, fill_placed, golden_file
from published_plans import ABDOMEN_CT

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict

XLSTM = ["xlstm_bot_3d", "xlstm_bot_3d_strong", "xlstm_enc_3d", "xlstm_enc_3d_strong", "xlstm_enc_2d_strong"]
LKM = ["lkm_unet_2d", "lkm_unet_3d"]
FILES = {  # the file, its rule of weights
    **{name: (name, "strong" if "strong" in name else "") for name in XLSTM},
    **{
        f"lkm_unet_{ndim}d {rule}": (f"lkm_unet_{ndim}d", rule)
        for ndim in (2, 3)
        for rule in ("mild", "strong")
    },
    **{name: (name, name[11:]) for name in ("umamba2_3d", "umamba2_3d_strong")},
}


class Golden:
    """A golden file under one rule of weights, the reference's parameters, and our network with these."""

    def __init__(self, name: str):
        self.file_name, self.rule = FILES[name]
        self.file = golden_file(self.file_name)
        self.config, shapes = self.file.about["config"], self.file.about["state_dict"]
        self.is_lkm = self.file_name.startswith("lkm")
        fill = fill_placed if self.is_lkm else fill_mixers
        self.names = [key for key in shapes if key not in self.file.about["aliases"]]
        weights = {key: fill(key, shapes[key], self.rule == "strong") for key in self.names}
        self.network = self.build()
        self.network.load_state_dict(convert_state_dict(weights, self.source))

    @property
    def source(self) -> str:
        return next(s for s in ("lkm_unet", "umamba2", "xlstm_unet") if s[:4] == self.file_name[:4])

    def build(self) -> torch.nn.Module:
        config, options = self.config, {}
        name = f"xlstm_unet_{config['kind']}" if self.source == "xlstm_unet" else self.source
        if name == "umamba2":
            options = {"headdim": config["headdim"], "n_blocks_per_stage": config["n_blocks"]}
        return create_network(
            name,
            input_channels=config.get("channels", config.get("input_channels")),
            num_classes=config["classes"],
            features_per_stage=config["features"],
            strides=config["strides"],
            kernel_sizes=config["kernels"],
            n_conv_per_stage=2 if options else config["n_blocks"],
            n_conv_per_stage_decoder=config.get("n_conv_decoder", config.get("n_blocks_decoder")),
            patch_size=config["patch"],
            deep_supervision=True,
            **options,
        )

    @property
    def theirs(self) -> dict[str, float]:
        """Gradient norms of our parameters in the authors' network, where they are finite: in one file of
        U-Mamba2 most are NaN."""
        norms = self.file.about[f"grad_norms_{self.rule}" if self.is_lkm else "grad_norms"]
        ours = {value: key for key, value in _renamed(self.names, self.source).items()}
        return {ours[n]: norms[n] for n in self.names if n in ours and math.isfinite(norms[n])}


def _renamed(names: list[str], source: str) -> dict[str, str]:
    """Return the authors' name of each of our parameters."""
    numbers = {name: torch.tensor(float(number)) for number, name in enumerate(names)}
    return {key: names[int(number)] for key, number in convert_state_dict(numbers, source).items()}


@pytest.fixture(params=FILES)
def golden(request):
    return Golden(request.param)


def test_equals_the_papers_code_in_float64(golden):
    """Every output, and the norms of the gradients of the sum of mean(out**2)."""
    outputs = golden.network.double()(golden.file.input.double())
    end = f"_{golden.rule}" if golden.is_lkm else ""
    for number, output in enumerate(outputs):
        assert golden.file.outputs[f"out{number}{end}"].error(output) < 1e-12
    loss = sum(output.square().mean() for output in outputs)
    about = golden.config[golden.rule] if golden.is_lkm else golden.config
    assert loss.item() == pytest.approx(about["loss"], rel=1e-6)
    loss.backward()
    theirs = golden.theirs
    if golden.file_name == "umamba2_3d":
        assert (len(theirs), len(golden.network.state_dict())) == (29, 111)
    else:
        assert len(theirs) == len(golden.network.state_dict())
    gradients = {name: parameter.grad.norm().item() for name, parameter in golden.network.named_parameters()}
    assert all(map(math.isfinite, gradients.values()))
    largest = max(theirs.values())
    for name, norm in theirs.items():
        assert gradients[name] == pytest.approx(norm, rel=1e-5, abs=1e-9 * largest), name


def test_parameter_count_to_the_digit(golden):
    n_params = golden.config["n_params"] - golden.config.get("n_params_unused", 0)
    assert sum(p.numel() for p in golden.network.parameters()) == n_params


SYNAPSE = {
    **ABDOMEN_CT,
    "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 3, [1, 2, 2]],
    "patch_size": [48, 192, 192],
}
ISOTROPIC = {
    **ABDOMEN_CT,
    "strides": [[1] * 3, *[[2] * 3] * 5],
    "kernel_sizes": [[3] * 3] * 6,
    "patch_size": [128] * 3,
}


def plan_2d(patch: list[int], channels: int, classes: int, n_stages: int) -> dict:
    return {
        "input_channels": channels,
        "num_classes": classes,
        "features_per_stage": [min(32 * 2**stage, 512) for stage in range(n_stages)],
        "strides": [[1, 1], *[[2, 2]] * (n_stages - 1)],
        "kernel_sizes": [[3, 3]] * n_stages,
        "patch_size": patch,
    }


MR, ENDOSCOPY, MICROSCOPY = (
    plan_2d([320, 320], 1, 14, 7),
    plan_2d([384, 640], 3, 8, 7),
    plan_2d([512, 512], 3, 3, 8),
)
RESENC = {**ABDOMEN_CT, "n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "n_conv_per_stage_decoder": 1}
TOOTH_FAIRY = {
    **RESENC,
    "num_classes": 47,
    "features_per_stage": [32, 64, 128, 256, 320, 320, 320],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6, 6],
}
TOOTH = {  # the smaller patch of its two published plans
    **TOOTH_FAIRY,
    "strides": [[1] * 3, *[[2] * 3] * 5, [1, 2, 2]],
    "kernel_sizes": [[3] * 3] * 7,
    "patch_size": [128, 256, 256],
}
SUBMITTED_TOOTH = {**TOOTH, "strides": [[1] * 3, *[[2] * 3] * 5, [1] * 3], "patch_size": [160, 288, 288]}
XLSTM_PLANS = {  # of Bot and Enc: parameters, and those of norms that nothing uses
    "ct": (ABDOMEN_CT, (41_912_206, 43_729_644), (640, 1_572)),
    "synapse": (SYNAPSE, (41_912_206, 43_753_078), (640, 1_584)),
    "isotropic": (ISOTROPIC, (42_097_102, 43_705_950), (640, 1_280)),
    "mr": (MR, (47_455_708, 47_021_771), (1_024, 1_106)),
    "endoscopy": (ENDOSCOPY, (47_447_288, 47_658_052), (1_024, 1_400)),
    "microscopy": (MICROSCOPY, (64_719_997, 64_010_653), (1_024, 1_056)),
}
PUBLISHED = {  # network, plan -> parameters
    ("umamba2", "resenc"): (RESENC, 102_509_598),
    ("umamba2_nossm", "resenc"): (RESENC, 101_867_334),
    ("umamba2", "tooth"): (TOOTH, 142_172_946),
    ("umamba2", "submitted tooth"): (SUBMITTED_TOOTH, 141_865_746),
    ("umamba2_nossm", "submitted tooth"): (SUBMITTED_TOOTH, 141_223_482),
    **{
        (f"xlstm_unet_{kind}", plan): (arguments, n_params[number] - n_unused[number])
        for plan, (arguments, n_params, n_unused) in XLSTM_PLANS.items()
        for number, kind in enumerate(("bot", "enc"))
    },
    ("xlstm_unet_bot_nossm", "ct"): (ABDOMEN_CT, 41_269_318),
    ("xlstm_unet_enc_nossm", "ct"): (ABDOMEN_CT, 42_395_014),
    ("lkm_unet", "ct"): (ABDOMEN_CT, 63_782_246),
    ("lkm_unet_nossm", "ct"): (ABDOMEN_CT, 57_156_326),
    ("lkm_unet", "isotropic"): (ISOTROPIC, 64_366_502),
    ("lkm_unet", "2d"): (MR, 80_886_452),
}


@pytest.mark.parametrize(("name", "plan"), PUBLISHED)
def test_counts_on_published_plans(name, plan):
    arguments, n_params = PUBLISHED[name, plan]
    with torch.device("meta"):
        network = create_network(name, **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == n_params
