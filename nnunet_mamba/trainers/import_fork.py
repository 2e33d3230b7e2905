"""Import of trained folders and weights of other repositories, for our trainers and networks.

A trained folder of nnU-Net is TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_N with its
checkpoints. The papers' forks of nnU-Net write the same, with names of trainers and of weights of their own.
The files written here hold weights and plain values only.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_mamba.checkpoints import convert_state_dict
from nnunet_mamba.checkpoints.convert import select_weights
from nnunet_mamba.io.atomic import atomic_directory, atomic_write
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.networks.finite import check_finite, get_tensors
from nnunet_mamba.nnunet.checkpoints import CHECKPOINTS
from nnunet_mamba.nnunet.paths import Method, parse_method
from nnunet_mamba.plans.architecture import get_build_arguments

# a fork's trainer, or a prefix of its name -> source of the weights, our trainer. Taming Mambas' SegMamba is
# its network with one scan; ge-xing's SegMamba, ours of that name, was never trained by a fork of nnU-Net.
# LMa-UNet is LKM-UNet's first name. U-Mamba2's trainers are named by their challenges, TF3 is ToothFairy3.
TRAINERS = {
    "nnUNetTrainerUMambaBot": ("umamba", "nnUNetTrainerUMambaBot"),
    "nnUNetTrainerUMambaEnc": ("umamba", "nnUNetTrainerUMambaEnc"),
    "nnUNetTrainerSegMamba": ("taming_mambas", "nnUNetTrainerMambaUni"),
    "nnUNetTrainerPanSegMamba": ("taming_mambas", "nnUNetTrainerMambaBi"),
    "nnUNetTrainerMultiSegMamba": ("taming_mambas", "nnUNetTrainerMambaMulti"),
    "nnUNetTrainerSwinUMamba": ("swin_umamba", "nnUNetTrainerSwinUMamba"),
    "nnUNetTrainerSwinUMambaD": ("swin_umamba", "nnUNetTrainerSwinUMambaD"),
    "nnUNetTrainerLightMUNet": ("lightm_unet", "nnUNetTrainerLightMUNet"),
    "nnUNetTrainerUxLSTMBot": ("xlstm_unet", "nnUNetTrainerXLSTMUNetBot"),
    "nnUNetTrainerUxLSTMEnc": ("xlstm_unet", "nnUNetTrainerXLSTMUNetEnc"),
    "nnUNetTrainerLKMUNet": ("lkm_unet", "nnUNetTrainerLKMUNet"),
    "nnUNetTrainerLMaUNet": ("lkm_unet", "nnUNetTrainerLKMUNet"),
    "nnUNetTrainer_TF3_Task1": ("umamba2", "nnUNetTrainerUMamba2"),
    "nnUNetTrainer_STSR_Task1": ("umamba2", "nnUNetTrainerUMamba2"),
}
NETWORKS = {  # sources of files of weights -> our networks, of which one has these keys
    "vm_unet": ("vm_unet",),
    "mamba_unet": ("mamba_unet",),
    "swin_umamba": ("swin_umamba", "swin_umamba_d"),
    "segmamba": ("segmamba",),
}


class ImportedWeights(NamedTuple):
    """Name of a network, the arguments of `create_network` that the weights fit, and which entry of the file
    they are."""

    network: str
    arguments: dict[str, Any]
    taken: str


def import_folder(folder: Path, out: Path | None = None) -> Path:
    """Turn a fork's trained folder into one that stock nnU-Net predicts with through our trainer.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION, as the fork wrote it.
        out: the folder to make (default: beside it, under our trainer's name).

    Every checkpoint is converted and loaded strictly into the network that nnU-Net will build. The result is
    complete or absent. The state of the optimizer is not imported, so training can start from the result
    (`-pretrained_weights`), but not resume. Raises ValueError for a path that is not such a folder, for
    trainers that are not in TRAINERS, for weights that are not finite, and if `out` exists.
    """
    folder = Path(folder)
    fork_trainer, plans_name, configuration = _parse_folder(folder)
    source, trainer = _find_trainer(fork_trainer)
    out = Path(out) if out else folder.parent / f"{trainer}__{plans_name}__{configuration}"
    plans, dataset = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    checkpoints = sorted(path for path in folder.glob("fold_*/*.pth") if path.name in CHECKPOINTS)
    if not checkpoints:
        raise ValueError(f"{folder} has no fold_N with one of {', '.join(CHECKPOINTS)}.")
    network = _network(trainer, plans, dataset, configuration)
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder (--out) or remove it.")
    with atomic_directory(out) as target:
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

    Raises ValueError if `out` exists, if weights are not finite, and if they do not fit the network strictly.
    """
    from nnunet_mamba.networks import create_network

    if source not in NETWORKS:
        raise ValueError(
            f"Files of weights can be imported for {', '.join(NETWORKS)}, not for {source!r}; "
            f"of forks of nnU-Net, import the trained folder."
        )
    if Path(out).exists():
        raise ValueError(f"{out} exists already; name another file or remove it.")
    taken = select_weights(load_restricted(path), path, entry)
    weights = convert_state_dict(taken.tensors, source)
    name = NETWORKS[source][-1] if "encoder.stem.0.weight" not in weights else NETWORKS[source][0]
    arguments = _infer_arguments(name, weights)
    if channels is not None:
        arguments["input_channels"] = channels
    network = create_network(name, **arguments)
    _load(network, weights, path)
    content = {"network_weights": network.state_dict(), "network": name, "arguments": arguments}
    with atomic_write(Path(out)) as draft:
        torch.save(content, draft)
    return ImportedWeights(name, arguments, str(taken))


def _infer_arguments(name: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments with which `create_network` builds the network of fixed topology of these
    weights."""

    def count_blocks(pattern: str) -> list[int]:
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
            "depths": count_blocks(r"encoder\.stages\.(\d+)\.(\d+)\."),
        }
    vss = "encoder.vss." if name == "swin_umamba" else "encoder."
    first = shape(f"{vss}patch_embed.proj.weight")
    features = [first[0] * 2**stage for stage in range(4)]
    arguments["depths"] = count_blocks(rf"{re.escape(vss)}layers\.(\d+)\.(\d+)\.")
    if name == "swin_umamba":
        stem = shape("encoder.stem.0.weight")
        return arguments | {"input_channels": stem[1], "features_per_stage": [stem[0], *features]}
    return arguments | {
        "input_channels": first[1],
        "features_per_stage": features,
        "depths_decoder": count_blocks(r"decoder\.layers\.(\d+)\.(\d+)\."),
    }


def _parse_folder(folder: Path) -> Method:
    """Return trainer, plans and configuration. Raises ValueError unless it is a trained folder of nnU-Net."""
    method = parse_method(folder.name)
    if not folder.is_dir() or method is None:
        raise ValueError(
            f"{folder} is not a trained folder of nnU-Net; expected one that is named "
            f"TRAINER__PLANS__CONFIGURATION and holds plans.json, dataset.json and fold_0."
        )
    return method


def _find_trainer(fork_trainer: str) -> tuple[str, str]:
    """Return the source of the weights and our trainer. Raises ValueError for an unknown trainer."""
    known = [name for name in TRAINERS if fork_trainer.startswith(name)]
    if not known:
        raise ValueError(
            f"The fork's trainer {fork_trainer} is unknown; known are {', '.join(TRAINERS)}, with any suffix."
        )
    return TRAINERS[max(known, key=len)]


def _network(trainer: str, plans: dict, dataset: dict, configuration: str) -> torch.nn.Module:
    """Return the network that nnU-Net builds for prediction."""
    from nnunet_mamba import trainers

    arguments = get_build_arguments(plans, configuration, dataset)
    return getattr(trainers, trainer).build_network_architecture(*arguments, enable_deep_supervision=False)


def _load(network: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that it should be for. {error}") from error
    check_finite(get_tensors(network), path, "Its numbers are too large for float32.")


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a trained folder of nnU-Net holds it.")
    return json.loads(path.read_text(encoding="utf-8"))
