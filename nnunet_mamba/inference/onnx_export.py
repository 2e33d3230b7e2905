"""A trained model as ONNX: a network per fold, and model.json with all that surrounds the networks.

`scripts/onnx_predict.py` predicts with these files, as nnU-Net does; `find_onnx_obstacle` says why it would
not. After each export onnxruntime and torch predict the same patch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import ANISO_THRESHOLD
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from torch import Tensor, nn

from nnunet_mamba import __version__
from nnunet_mamba.inference.export import KNOWN_OPTIONS, find_obstacle
from nnunet_mamba.inference.onnx_norms import norms_by_axis
from nnunet_mamba.inference.predictor import BatchedPredictor
from nnunet_mamba.inference.preprocessing import KNOWN_NORMALIZATIONS
from nnunet_mamba.io.atomic import atomic_directory, write_json
from nnunet_mamba.networks.finite import USE_OTHERS, check_finite, get_tensors, unwrap_model
from nnunet_mamba.nnunet.dataset_json import get_channels, sort_channels
from nnunet_mamba.nnunet.version import get_installed_version

FORMAT = 1  # of model.json
TOLERANCE = 1e-3  # between onnxruntime and torch, of the largest logit: two steps of float16
ROUNDING = 4  # mean and largest errors of float32 that pass for rounding, in those of torch
LARGEST_GB = 1.9  # an ONNX file holds 2 GB
READERS = ("SimpleITKIO", "NibabelIO")  # of NIfTI files, in the file's own orientation
ENDINGS = (".nii", ".nii.gz")
PACKAGES = ("nnunetv2", "torch", "onnx", "onnxscript", "onnxruntime")
ORDERS = (0, 1, 3)  # of splines that the runner interpolates by


def find_onnx_obstacle(predictor: BatchedPredictor) -> str | None:
    """Return why `scripts/onnx_predict.py` could not predict as nnU-Net does; None if it can."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    resample, ending = configuration.resampling_fn_data, predictor.dataset_json["file_ending"]
    reader = plans.image_reader_writer_class.__name__
    if name := configuration.previous_stage_name:
        return f"it is the second stage of a cascade and needs label maps of {name}"
    if configuration.preprocessor_class is not DefaultPreprocessor:
        return f"the plans name a preprocessor of their own, {configuration.preprocessor_name}"
    if other := sorted(set(configuration.normalization_schemes) - KNOWN_NORMALIZATIONS):
        return f"the plans normalise by {', '.join(other)}"
    if resample.func is not resample_data_or_seg_to_shape:
        return f"the plans resample images by {resample.func.__name__}"
    if other := sorted(set(resample.keywords) - KNOWN_OPTIONS):
        return f"the plans resample images with {', '.join(other)}"
    rule = describe_resampling(resample.keywords)
    if resample.keywords.get("is_seg") or not {rule["order"], rule["order_z"]} <= set(ORDERS):
        return f"the plans resample images as labels, or by splines of other orders than {ORDERS}"
    if reader not in READERS or ending not in ENDINGS:
        return f"images are {ending} files read by {reader}; the runner reads NIfTI as {READERS[0]} does"
    return find_obstacle(plans, configuration, predictor.label_manager)


def describe_model(predictor: BatchedPredictor, folds: Sequence[str]) -> dict[str, Any]:
    """Return the content of model.json. Raises ValueError if the runner could not predict with it."""
    if obstacle := find_onnx_obstacle(predictor):
        raise ValueError(f"This model cannot be exported with its pre- and postprocessing: {obstacle}.")
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    dataset, labels = predictor.dataset_json, predictor.label_manager
    return {
        "format": FORMAT,
        "dataset": plans.plans.get("dataset_name"),
        "trainer": predictor.trainer_name,
        "networks": [_name_network(fold) for fold in folds],
        "channels": list(sort_channels(get_channels(dataset), "dataset.json").values()),
        "file_ending": dataset["file_ending"],
        "transpose_forward": list(plans.transpose_forward),
        "transpose_backward": list(plans.transpose_backward),
        "spacing": [float(mm) for mm in configuration.spacing],  # in the network's order of axes
        "normalization": _describe_normalization(plans, configuration),
        "resample_image": describe_resampling(configuration.resampling_fn_data.keywords),
        "resample_logits": describe_resampling(configuration.resampling_fn_probabilities.keywords),
        "patch_size": [int(n) for n in configuration.patch_size],
        "step_size": 0.5,  # from tile to tile, in patches
        "gaussian_sigma": 1 / 8,  # of the weights of a tile, in patches
        "gaussian_peak": 10,
        "mirror_axes": list(predictor.allowed_mirroring_axes or ()),
        "labels": dataset["labels"],
        "regions_class_order": list(labels.regions_class_order) if labels.has_regions else None,
        "versions": {"nnunet_mamba": __version__} | {name: get_installed_version(name) for name in PACKAGES},
    }


def _name_network(fold: str) -> str:
    return f"fold_{fold}.onnx"


def _describe_normalization(plans: Any, configuration: Any) -> list[dict[str, Any]]:
    """Return a rule per channel, with the numbers of the training that it needs."""
    schemes = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    rules: list[dict[str, Any]] = []
    for channel, (scheme, within_mask) in enumerate(schemes):
        rule = {"scheme": scheme, "within_mask": within_mask and scheme == "ZScoreNormalization"}
        if scheme == "CTNormalization":
            numbers = plans.foreground_intensity_properties_per_channel[str(channel)]
            rule |= {"lowest": numbers["percentile_00_5"], "highest": numbers["percentile_99_5"]}
            rule |= {name: numbers[name] for name in ("mean", "std")}
        rules.append(rule)
    return rules


def describe_resampling(options: dict[str, Any]) -> dict[str, Any]:
    """Return what nnU-Net's resampling does with the keyword arguments `options` of the plans."""
    return {
        "order": int(options.get("order", 3)),
        "order_z": int(options.get("order_z", 0)),  # along the axis of low resolution
        "force_separate_z": options.get("force_separate_z", False),
        "threshold": options.get("separate_z_anisotropy_threshold", ANISO_THRESHOLD),
    }


def export_onnx_model(predictor: BatchedPredictor, folds: Sequence[str], out: Path) -> dict[str, float]:
    """Write a folder with the networks of `folds`, whose weights the predictor holds, and model.json.

    Returns the largest difference of onnxruntime's logits to torch's, per network, in parts of the largest
    logit. Raises ValueError for a model that the runner could not reproduce, weights that are not finite, a
    network that cannot be exported, and one whose logits differ; nothing is left at `out` then.
    """
    description = describe_model(predictor, folds)
    network = unwrap_model(predictor.network).eval()
    differences = {}
    with atomic_directory(out) as draft:
        for fold, weights in zip(folds, predictor.list_of_parameters, strict=True):
            network.load_state_dict(weights)
            check_finite(get_tensors(network), f"fold {fold}", USE_OTHERS)
            n_channels = len(description["channels"])
            patch = torch.randn(1, n_channels, *description["patch_size"], generator=torch.manual_seed(0))
            name = _name_network(fold)
            export_network(network, patch, draft / name)
            differences[name] = compare_with_runtime(network, patch, draft / name)
        write_json(draft / "model.json", description)
    return differences


def export_network(network: nn.Module, patch: Tensor, file: Path) -> None:
    """Write a network in float32, for inputs "image" of the patch's shape, as one file with its weights.

    Raises ValueError, with the exporter's reason, where it knows no operator of ONNX for one of torch's.
    """
    gigabytes = sum(tensor.nbytes for tensor in get_tensors(network).values()) / 1e9
    if gigabytes > LARGEST_GB:
        raise ValueError(f"The network has {gigabytes:.1f} GB of weights; an ONNX file holds 2 GB.")
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    try:
        with torch.no_grad(), norms_by_axis():
            torch.onnx.export(
                network, (patch,), file, dynamo=True, external_data=False, verbose=False, **names
            )
    except torch.onnx.OnnxExporterError as error:
        reason: BaseException = error
        while reason.__cause__:
            reason = reason.__cause__
        raise ValueError(f"{type(network).__name__} cannot be exported to ONNX: {reason}") from error


def compare_with_runtime(network: nn.Module, patch: Tensor, file: Path) -> float:
    """Return the largest difference of onnxruntime's logits to torch's, in parts of the largest logit.

    Raises ValueError if it exceeds TOLERANCE and is no rounding. It is where torch's float32 is about as far
    from its float64: some networks amplify the last bits.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(["logits"], {"image": patch.numpy()})[0])
    except Exception as error:  # onnxruntime's have no other base in common
        raise ValueError(f"{file.name}: onnxruntime cannot run the network: {error}") from error
    with torch.no_grad():
        expected = network(patch)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if difference <= TOLERANCE:
        return difference
    exact = predict_exactly(network, patch)
    own, other = (_measure_errors(logits - exact) for logits in (expected, found))
    if not all(one <= ROUNDING * torchs for one, torchs in zip(other, own, strict=True)):  # nor does NaN pass
        raise ValueError(
            f"{file.name}: onnxruntime's logits differ from torch's by {difference:.1g} of the largest; at "
            f"most {TOLERANCE:g} is accepted, or rounding: mean and largest difference to logits in float64 "
            f"are {other[0]:.1g} and {other[1]:.1g}, torch's {own[0]:.1g} and {own[1]:.1g}. Try other "
            "versions of torch, onnxscript and onnxruntime."
        )
    return difference


def _measure_errors(errors: Tensor) -> tuple[float, float]:
    """Return the mean and the largest size of errors."""
    sizes = errors.abs()
    return float(sizes.mean()), float(sizes.max())


@torch.no_grad()
def predict_exactly(network: nn.Module, patch: Tensor) -> Tensor:
    """Return logits in float64, by a copy of the network."""
    logits: Tensor = copy.deepcopy(network).double()(patch.double())
    return logits
