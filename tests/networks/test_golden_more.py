"""Networks against their papers' code, by golden files that give some voxels under two rules of weights.

All ran in float64: LightM-UNet (revision 6b72e27), SegMamba-V2 (7b81976) and nnMamba (6fb35a3, nnMamba.py).
"""

import pytest
import torch
from golden_files import fill_placed, golden_file

from nnunet_mamba import create_network
from nnunet_mamba.checkpoints import convert_state_dict


def lightm_sizes(config):
    return {
        "features_per_stage": [config["init_filters"] * 2**stage for stage in range(4)],
        "depths": config["blocks_down"],
        "depths_decoder": config["blocks_up"],
    }


def segmamba_v2_sizes(config):
    sizes = {key: config[key] for key in ("depths", "hidden_size")}
    return {"features_per_stage": config["features"], **sizes}


def nnmamba_sizes(config):
    return {
        "features_per_stage": [config["channels"] * 2**stage for stage in range(4)],
        "depths": [config["blocks"]] * 3,
    }


SIZES = {"lightm_unet": lightm_sizes, "segmamba_v2": segmamba_v2_sizes, "nnmamba": nnmamba_sizes}
NNMAMBA = ["nnmamba_3d", "nnmamba_3d_b2"]
FILES = ["lightm_unet_3d", "lightm_unet_2d", "segmamba_v2_3d", "segmamba_v2_3d_depth1", *NNMAMBA]
IN_FLOAT32 = [name for name in FILES if "segmamba" in name]  # their convolutions are slow in float64


class Golden:
    """One golden file, our network, and the weights of one rule in it."""

    def __init__(self, name: str, rule: str):
        self.file, self.rule = golden_file(name), rule
        self.config, shapes, aliases = (self.file.about[key] for key in ("config", "state_dict", "aliases"))
        self.source = self.config["network"]
        self.network = create_network(
            self.source,
            input_channels=self.config["input_channels"],
            num_classes=self.config["classes"],
            patch_size=self.config["patch"],
            deep_supervision=True,
            **SIZES[self.source](self.config),
        )
        names = {key: aliases.get(key, key) for key in shapes}
        weights = {key: fill_placed(names[key], shapes[key], rule == "strong") for key in shapes}
        self.network.load_state_dict(convert_state_dict(weights, self.source))
        self.network.double()
        self.theirs = convert_state_dict(names, self.source)  # our key -> their name

    def truths(self, prefix=""):
        """Outputs of the rule, by a prefix of their names."""
        return [
            output
            for name, output in self.file.outputs.items()
            if name.startswith(f"{prefix}out") and name.endswith(self.rule)
        ]


@pytest.mark.parametrize("rule", ["mild", "strong"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in IN_FLOAT32)) for name in FILES],
)
def test_outputs_and_gradients_in_float64_are_those_of_the_papers_code(name, rule):
    """Of the sum over outputs of mean(out**2); and the number of parameters."""
    golden = Golden(name, rule)
    network = golden.network.eval()
    outputs = network(golden.file.input.double())
    for output, truth in zip(outputs, golden.truths(), strict=True):
        assert truth.error(output) < 1e-9
    loss = sum(output.square().mean() for output in outputs)
    assert loss.item() == pytest.approx(golden.config[golden.rule]["loss"], rel=1e-8)
    loss.backward()
    norms = golden.file.about[f"grad_norms_{golden.rule}"]
    largest = max(norms.values())
    for key, parameter in network.named_parameters():
        expected = norms[golden.theirs[key]]
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-6, abs=1e-9 * largest), key
    assert sum(p.numel() for p in network.parameters()) == golden.config["n_params"]


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_outputs_in_float32_are_those_of_the_papers_code(name):
    golden = Golden(name, "strong")
    with torch.no_grad():
        (output,) = golden.network.float()(golden.file.input)
    assert golden.truths()[0].error(output) < 2e-5


@pytest.mark.parametrize("rule", ["mild", "strong"])
@pytest.mark.parametrize("name", NNMAMBA)
def test_batch_norms_are_those_of_the_papers_code(name, rule):
    """In training mode: outputs, and means and deviations of all statistics after one pass."""
    golden = Golden(name, rule)
    with torch.no_grad():
        (output,) = golden.network.train()(golden.file.input.double())
    assert golden.truths("train_")[0].error(output) < 1e-9
    expected, seen = golden.config[rule]["train_running"], 0
    for key, buffer in golden.network.named_buffers():
        if not key.endswith("num_batches_tracked"):
            statistics = [buffer.mean().item(), buffer.std().item()]
            assert statistics == pytest.approx(expected[golden.theirs[key]], rel=1e-9), key
            seen += 1
    assert seen == len(expected) > 40


@pytest.mark.parametrize("name", FILES)
def test_keys_without_second_names_are_enough(name):
    golden = Golden(name, "mild")
    shapes, aliases = golden.file.about["state_dict"], golden.file.about["aliases"]
    plain = {f"module.{key}": key for key in shapes if key not in aliases}
    assert convert_state_dict(plain, golden.source) == golden.theirs
