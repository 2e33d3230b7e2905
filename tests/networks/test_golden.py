"""Our networks against outputs and gradients of the papers' own code.

`tests/golden/*.npz` hold inputs, float64 outputs and gradient norms of U-Mamba (revision 28459e3) under
weights that follow from the parameters' names alone (`fill`); "strong" weights make the outputs depend on the
scan.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(path.stem for path in GOLDEN.glob("umamba_bot*.npz"))


def fill(name: str, shape: list[int], strong: bool) -> torch.Tensor:
    """The value that the golden files' rule gives a parameter."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A_log":
        return torch.arange(1.0, shape[1] + 1).log().repeat(shape[0], 1)
    if leaf == "D" or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.05 * noise
    if strong and leaf == "weight":
        return noise * math.sqrt(2 / (noise.numel() / shape[0]))
    return 0.05 * noise


class Golden:
    """One golden file, the reference's state dict, and our network with its weights."""

    def __init__(self, name: str):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        config, parameters = self.json("config"), self.json("params")
        values = {key: fill(key, shape, "strong" in name) for key, shape in parameters.items()}
        aliases = self.json("alias")
        self.parameters = parameters
        self.state_dict = {key: values[aliases.get(key, key)] for key in self.json("state_dict")}
        self.config = config
        self.network = create_network(
            "umamba_bot",
            input_channels=config["channels"],
            num_classes=config["classes"],
            features_per_stage=config["features"],
            strides=config["strides"],
            kernel_sizes=config["kernels"],
            n_conv_per_stage=config["n_blocks"],
            n_conv_per_stage_decoder=config["n_blocks_decoder"],
            patch_size=config["patch"],
            deep_supervision=True,
        )
        self.network.load_state_dict(convert_state_dict(self.state_dict, "umamba"))

    def json(self, name: str) -> dict:
        return json.loads(str(self.arrays[f"{name}_json"]))

    @property
    def input(self) -> torch.Tensor:
        return torch.from_numpy(self.arrays["input"])


@pytest.fixture(params=FILES)
def golden(request):
    return Golden(request.param)


def test_the_golden_files_are_there():
    assert FILES == ["umamba_bot_2d", "umamba_bot_3d", "umamba_bot_3d_strong"]


def test_equals_the_papers_code_in_float64(golden):
    with torch.no_grad():
        outputs = golden.network.double()(golden.input.double())
    stored = [key for key in golden.arrays.files if key.endswith("_fp64")]
    assert len(stored) >= 3
    for key in stored:
        truth = torch.from_numpy(golden.arrays[key])
        output = outputs[int(key.removeprefix("out").removesuffix("_fp64"))]
        assert output.shape == truth.shape
        assert (output - truth).abs().max() / truth.abs().max() < 1e-8


def test_parameter_count_to_the_digit(golden):
    assert sum(p.numel() for p in golden.network.parameters()) == golden.config["n_params"]


def test_gradient_norms(golden):
    """Of the sum over outputs of mean(out**2); those that are zero but for rounding (biases before a norm)
    are left out."""
    loss = sum(output.square().mean() for output in golden.network(golden.input))
    assert loss.item() == pytest.approx(golden.config["loss"], rel=1e-4)
    loss.backward()
    ours = convert_state_dict({name: name for name in golden.parameters}, "umamba")
    theirs = {name: golden.json("grad_norms")[source] for name, source in ours.items()}
    largest, compared = max(theirs.values()), 0
    for name, parameter in golden.network.named_parameters():
        if theirs[name] > 1e-3 * largest:
            assert parameter.grad.norm().item() == pytest.approx(theirs[name], rel=2e-3), name
            compared += 1
    assert compared > 20


def test_without_deep_supervision_it_is_the_largest_output(golden):
    with torch.no_grad():
        largest = golden.network(golden.input)[0]
        golden.network.decoder.deep_supervision = False
        assert torch.equal(golden.network(golden.input), largest)


def test_other_peoples_prefixes_and_second_names_do_not_matter(golden):
    prefixed = {f"module._orig_mod.{key}": value for key, value in golden.state_dict.items()}
    plain = {key: golden.state_dict[key] for key in golden.parameters}
    for state_dict in (prefixed, plain):
        converted = convert_state_dict(state_dict, "umamba")
        assert converted.keys() == golden.network.state_dict().keys()
