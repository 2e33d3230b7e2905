"""What other repositories trained, as weights and trained folders of ours.

A trained folder of nnU-Net is TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_N with its
checkpoints. The forks that the papers came with wrote the same, under their trainers' names and with their
networks' names of weights. What is written here holds weights and plain values only.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.checkpoints.convert import select_weights
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.finite import check_finite, tensors_of
from nnunet_mamba.plans.architecture import network_arguments

# a fork's trainer, or the beginning of its name -> whose code, our trainer. What Taming Mambas calls SegMamba
# is its network with one scan; ge-xing's SegMamba, ours of that name, was never trained by a fork of nnU-Net.
TRAINERS = {
    "nnUNetTrainerUMambaBot": ("umamba", "nnUNetTrainerUMambaBot"),
    "nnUNetTrainerUMambaEnc": ("umamba", "nnUNetTrainerUMambaEnc"),
    "nnUNetTrainerSegMamba": ("taming_mambas", "nnUNetTrainerMambaUni"),
    "nnUNetTrainerPanSegMamba": ("taming_mambas", "nnUNetTrainerMambaBi"),
    "nnUNetTrainerMultiSegMamba": ("taming_mambas", "nnUNetTrainerMambaMulti"),
    "nnUNetTrainerSwinUMamba": ("swin_umamba", "nnUNetTrainerSwinUMamba"),
    "nnUNetTrainerSwinUMambaD": ("swin_umamba", "nnUNetTrainerSwinUMambaD"),
}
NETWORKS = {  # sources of bare files -> our networks, of which one has these keys
    "vm_unet": ("vm_unet",),
    "mamba_unet": ("mamba_unet",),
    "swin_umamba": ("swin_umamba", "swin_umamba_d"),
    "segmamba": ("segmamba",),
}
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")


class ImportedWeights(NamedTuple):
    """A network, the arguments of `create_network` with which it fits, and which weights were taken."""

    network: str
    arguments: dict[str, Any]
    taken: str


def import_folder(folder: Path, out: Path | None = None) -> Path:
    """Turn a fork's trained folder into one that stock nnU-Net predicts with through our trainer.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION, as the fork wrote it.
        out: the folder to make (default: beside it, under our trainer's name).

    Every checkpoint is converted and loaded strictly into the network that nnU-Net will build; then all is
    written at once. The state of the optimizer is left behind, so training can start from the result
    (`-pretrained_weights`), but not continue. Raises ValueError for what is no such folder, for trainers that
    are not in TRAINERS, for weights that are not finite, and where `out` exists.
    """
    folder = Path(folder)
    fork_trainer, plans_name, configuration = _parts(folder)
    source, trainer = _our_trainer(fork_trainer)
    out = Path(out) if out else folder.parent / f"{trainer}__{plans_name}__{configuration}"
    plans, dataset = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    checkpoints = sorted(path for path in folder.glob("fold_*/*.pth") if path.name in CHECKPOINTS)
    if not checkpoints:
        raise ValueError(f"{folder} has no fold_N with one of {', '.join(CHECKPOINTS)}.")
    network = _network(trainer, plans, dataset, configuration)
    with _all_at_once(out) as target:
        for path in checkpoints:
            fold = path.parent.name.removeprefix("fold_")
            checkpoint = load_restricted(path)
            _load(network, convert_state_dict(select_weights(checkpoint, path).tensors, source), path)
            axes = checkpoint.get("inference_allowed_mirroring_axes")
            (target / path.parent.name).mkdir(exist_ok=True)
            torch.save(
                {
                    "network_weights": network.state_dict(),
                    "trainer_name": trainer,
                    "inference_allowed_mirroring_axes": None if axes is None else tuple(map(int, axes)),
                    "init_args": {
                        "plans": plans,
                        "configuration": configuration,
                        "fold": int(fold) if fold.isdigit() else fold,
                        "dataset_json": dataset,
                    },
                },
                target / path.parent.name / path.name,
            )
        for name in ("plans.json", "dataset.json", "dataset_fingerprint.json"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
    return out


def import_weights(
    path: Path, source: str, out: Path, *, entry: str = "auto", channels: int | None = None
) -> ImportedWeights:
    """Turn a file of weights of a paper's code into one for nnU-Net's `-pretrained_weights`.

    Args:
        source: one of NETWORKS.
        out: the file to write.
        entry: which of the dicts of weights in the file to take, such as "model_ema" (see `select_weights`).
        channels: input channels, where one was repeated to three (VM-UNet, Mamba-UNet).

    Raises ValueError where `out` exists, where weights are not finite, and where they do not fit the network
    strictly.
    """
    from nnunet_mamba.networks import create_network

    if source not in NETWORKS:
        raise ValueError(
            f"Weights alone say how a network is built for {', '.join(NETWORKS)}, not for {source!r}; "
            f"of forks of nnU-Net, import the trained folder."
        )
    if Path(out).exists():
        raise ValueError(f"{out} exists already; name another file or remove it.")
    taken = select_weights(load_restricted(path), path, entry)
    weights = convert_state_dict(taken.tensors, source)
    name = NETWORKS[source][-1] if "encoder.stem.0.weight" not in weights else NETWORKS[source][0]
    arguments = _arguments(name, weights)
    if channels is not None:
        arguments["input_channels"] = channels
    network = create_network(name, **arguments)
    _load(network, weights, path)
    content = {"network_weights": network.state_dict(), "network": name, "arguments": arguments}
    unfinished = Path(out).with_name(f".{Path(out).name}.unfinished")
    torch.save(content, unfinished)
    unfinished.rename(out)
    return ImportedWeights(name, arguments, str(taken))


def _arguments(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `create_network` needs to build a network of fixed topology with these weights."""

    def n_blocks(pattern: str) -> list[int]:
        found = {match.groups() for key in weights if (match := re.match(pattern, key))}
        return [sum(int(s) == stage for s, _ in found) for stage in range(len({s for s, _ in found}))]

    def shape(key: str) -> torch.Size:
        return weights[key].shape

    heads = [key for key in weights if re.match(r"decoder\.seg_layers\.\d+\.weight", key)]
    arguments: dict[str, Any] = {"num_classes": shape(heads[0])[0]}
    if name == "segmamba":
        downs = [f"encoder.downsamples.{stage}.{int(stage > 0)}.weight" for stage in range(4)]
        return arguments | {
            "input_channels": shape(downs[0])[1],
            "features_per_stage": [shape(key)[0] for key in downs],
            "hidden_size": shape("decoder.skips.4.convs.convs.0.conv.weight")[0],
            "depths": n_blocks(r"encoder\.stages\.(\d+)\.(\d+)\."),
        }
    vss = "encoder.vss." if name == "swin_umamba" else "encoder."
    first = shape(f"{vss}patch_embed.proj.weight")
    features = [first[0] * 2**stage for stage in range(4)]
    arguments["depths"] = n_blocks(rf"{re.escape(vss)}layers\.(\d+)\.(\d+)\.")
    if name == "swin_umamba":
        stem = shape("encoder.stem.0.weight")
        return arguments | {"input_channels": stem[1], "features_per_stage": [stem[0], *features]}
    return arguments | {
        "input_channels": first[1],
        "features_per_stage": features,
        "depths_decoder": n_blocks(r"decoder\.layers\.(\d+)\.(\d+)\."),
    }


def _parts(folder: Path) -> tuple[str, str, str]:
    parts = folder.name.split("__")
    if not folder.is_dir() or len(parts) != 3:
        raise ValueError(
            f"{folder} is no trained folder of nnU-Net; expected one that is named "
            f"TRAINER__PLANS__CONFIGURATION and holds plans.json, dataset.json and fold_0."
        )
    return parts[0], parts[1], parts[2]


def _our_trainer(fork_trainer: str) -> tuple[str, str]:
    known = [name for name in TRAINERS if fork_trainer.startswith(name)]
    if not known:
        raise ValueError(
            f"The fork's trainer {fork_trainer} is unknown; known are {', '.join(TRAINERS)}, with any suffix."
        )
    return TRAINERS[max(known, key=len)]


def _network(trainer: str, plans: dict, dataset: dict, configuration: str) -> torch.nn.Module:
    """The network that nnU-Net builds for prediction."""
    from nnunet_mamba import trainers

    arguments = network_arguments(plans, configuration, dataset)
    return getattr(trainers, trainer).build_network_architecture(*arguments, enable_deep_supervision=False)


def _load(network: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that it should be for. {error}") from error
    check_finite(tensors_of(network), path, "Its numbers are too large for float32.")


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a trained folder of nnU-Net holds it.")
    return json.loads(path.read_text())


@contextmanager
def _all_at_once(out: Path) -> Iterator[Path]:
    """A folder to fill, that becomes `out` once it is full, and vanishes if it is not to be."""
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder (--out) or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
