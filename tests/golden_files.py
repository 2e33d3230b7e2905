"""The golden files: outputs and gradients of the papers' own code, and the rule that gives its weights.

The full files are large and lie beside the repository, in `../shared/golden`, if they are there at all. For
each that a test reads, tests/golden has a sample: the same, but with fixed voxels of each output, and without
the features inside the network. A test compares every voxel where the full file is, elsewhere the sample's.

    python tests/golden_files.py ../shared/golden/NAME.npz ...      write the samples of these files
"""

import json
import math
import re
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

SAMPLES = Path(__file__).parent / "golden"
FULL = Path(__file__).parents[2] / "shared" / "golden"
N_VOXELS = 2000  # of each output in a sample
VOXELS = "_voxels"  # ending of entries of a sample: voxels that do not follow from names
INPUT_SEED = 1234

UNREAD = re.compile(r"mid:|skip\d|bottleneck|params_json|param_names|named_parameters|n_outputs|probes")
INPUT = re.compile(r"input$|.*[_/]in$")
OUTPUT = re.compile(r"(?:.*[_/])?out\d*(?:_.*)?$")
PLACED = re.compile(r"(?P<train>train_)?out(?P<number>\d)_(?P<rule>mild|strong)$")  # at voxels of index0, ...
NAMES = {"state_dict_shapes": "state_dict", "alias": "aliases", "grad_l2_norms": "grad_norms"}


@dataclass(frozen=True)
class Output:
    """Values of an output at some of its voxels (flat indices), and the magnitude of its largest value."""

    shape: tuple[int, ...]
    largest: float
    voxels: np.ndarray
    values: np.ndarray

    def difference(self, output: torch.Tensor) -> float:
        """Return the largest absolute difference of `output` from the values."""
        assert output.shape == self.shape
        ours = output.detach().double().flatten()[torch.from_numpy(self.voxels)]
        return (ours - torch.from_numpy(self.values).double()).abs().max().item()

    def error(self, output: torch.Tensor) -> float:
        """Return that difference relative to the largest value."""
        return self.difference(output) / self.largest

    def sample(self, name: str) -> "Output":
        """Keep N_VOXELS voxels, the same ones for the same name."""
        random = np.random.RandomState(zlib.crc32(name.encode()))
        chosen = np.sort(random.permutation(len(self.values))[:N_VOXELS])
        return replace(self, voxels=self.voxels[chosen], values=self.values[chosen])


@dataclass(frozen=True)
class GoldenFile:
    """A configuration, names and shapes of weights, gradient norms (all in `about`), inputs and outputs."""

    about: dict
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, Output]

    @property
    def input(self) -> torch.Tensor:
        return self.inputs["input"]

    def sample(self, name: str) -> "GoldenFile":
        outputs = {entry: output.sample(f"{name}/{entry}") for entry, output in self.outputs.items()}
        return replace(self, outputs=outputs)


def golden_file(name: str) -> GoldenFile:
    """Read a full golden file if it is there, else its sample."""
    full = FULL / f"{name}.npz"
    return read_full(full) if full.is_file() else read_sample(SAMPLES / f"{name}.npz")


def read_full(path: Path) -> GoldenFile:
    """Read a file as the papers' code left it; the names of entries differ from source to source.

    Where there are voxels (index0, ...), each output is given at these alone, under both rules of weights.
    """
    file = GoldenFile({}, {}, {})
    for entry, array in np.load(path).items():
        name = re.sub(r"^output", "out", re.sub(r"_(json|fp64|f64)$", "", entry))
        if UNREAD.match(entry):
            continue
        if array.dtype.kind == "U":
            file.about[NAMES.get(name, name)] = json.loads(str(array))
        elif INPUT.match(name):
            file.inputs[name] = torch.from_numpy(array)
        elif not OUTPUT.match(name):
            file.about[name] = array.tolist()
        elif name not in file.outputs or array.dtype == np.float64:
            everywhere = np.arange(array.size)
            file.outputs[name] = Output(array.shape, float(abs(array).max()), everywhere, array.ravel())
    return place(file) if "index0" in file.about else file


def place(file: GoldenFile) -> GoldenFile:
    """Put the values of outputs to their voxels, and give these the shape and largest value of the whole."""
    config, outputs = file.about["config"], {}
    about = {name: value for name, value in file.about.items() if not name.startswith("index")}
    for name, output in file.outputs.items():
        match = PLACED.match(name)
        number = int(match["number"])
        largest = output.largest if match["train"] else config[match["rule"]]["absmax"][number]
        voxels = np.array(file.about[f"index{number}"])
        outputs[name] = replace(output, shape=tuple(config["shapes"][number]), largest=largest, voxels=voxels)
    return GoldenFile(about, file.inputs, outputs)


def random_input(shape: list[int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(INPUT_SEED))


def write_sample(file: GoldenFile, path: Path) -> None:
    """Write the sample of a full file; of an input made by `random_input` the shape is enough."""
    sample = file.sample(path.stem)
    random = {k: list(x.shape) for k, x in file.inputs.items() if torch.equal(x, random_input(x.shape))}
    given = {key: x.numpy() for key, x in file.inputs.items() if key not in random}
    outputs = {
        key: {"shape": output.shape, "largest": output.largest} for key, output in file.outputs.items()
    }
    header = json.dumps({"about": file.about, "inputs": random, "outputs": outputs})
    values = {key: output.values for key, output in sample.outputs.items()}
    voxels = {
        f"{key}{VOXELS}": sample.outputs[key].voxels.astype(np.int32)
        for key, output in file.outputs.items()
        if len(output.values) < math.prod(output.shape)
    }
    np.savez_compressed(path, header=header.encode(), **given, **values, **voxels)


def read_sample(path: Path) -> GoldenFile:
    arrays = dict(np.load(path))
    header = json.loads(arrays.pop("header").item())
    outputs = {}
    for entry, facts in header["outputs"].items():
        everywhere = np.arange(math.prod(facts["shape"]))
        whole = Output(tuple(facts["shape"]), facts["largest"], everywhere, everywhere)
        found = replace(whole.sample(f"{path.stem}/{entry}"), values=arrays.pop(entry))
        outputs[entry] = replace(found, voxels=arrays.pop(f"{entry}{VOXELS}", found.voxels))
    inputs = {key: random_input(shape) for key, shape in header["inputs"].items()}
    return GoldenFile(header["about"], inputs | {k: torch.from_numpy(a) for k, a in arrays.items()}, outputs)


def fill(name: str, shape: list[int], strong: bool = False, gain: float = 2) -> torch.Tensor:
    """The value of a parameter or buffer by its name; `strong` is U-Mamba's files' rule for larger weights,
    of variance gain / fan_in."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("A_log", "A_b_log", "A_s_log", "A_logs"):
        return torch.arange(1, shape[1] + 1, dtype=torch.float64).log().float().repeat(shape[0], 1)
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_var":
        return 1 + noise.abs()
    if leaf in ("D", "D_b", "D_s", "Ds", "skip_scale") or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.05 * noise
    if strong and leaf == "weight":
        return noise * math.sqrt(gain / (noise.numel() / shape[0]))
    return 0.05 * noise


def fill_vss(name: str, shape: list[int], strong: bool) -> torch.Tensor:
    """The same for the files of visual state space networks, whose larger weights are others."""
    larger = strong and name.endswith(("x_proj_weight", "dt_projs_weight"))
    return fill(name, shape) * (10 if larger else 1)


def fill_placed(name: str, shape: list[int], strong: bool) -> torch.Tensor:
    """The same for the files that give outputs at some voxels: the larger weights are smaller inside Mamba,
    and logarithms are float32's, which matters to networks that amplify rounding."""
    if name.endswith(".A_log"):
        return torch.arange(1.0, shape[1] + 1).log().repeat(shape[0], 1)
    in_mamba = re.search(r"\.(in_proj|conv1d|x_proj|dt_proj|out_proj)\.", name)
    return fill(name, shape, strong, gain=1 if in_mamba else 2)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_sample(read_full(Path(argument)), SAMPLES / Path(argument).name)
