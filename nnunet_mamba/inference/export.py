"""Label maps and probabilities from logits in one pass, without logits at the size of the image.

Results are nnU-Net's, voxel by voxel, where its plans resample probabilities in its own way; `find_obstacle`
says where they do not.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.helpers import softmax_helper_dim0
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_mamba.inference import label_kernels
from nnunet_mamba.inference.resampling import Interpolation, Resampling
from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.cpu import choose_n_threads
from nnunet_mamba.io.images import check_complete

KNOWN_OPTIONS = {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
PLANES = 8  # of the output that a thread decides before it takes the next
DEVICE_BYTES = 2**30  # of the slabs of interpolated logits on a GPU, if as much is free
DEFLATE_LEVEL = 1  # of probabilities, which hardly get smaller by more work
Box = tuple[slice, slice, slice]


def find_obstacle(plans: Any, configuration: Any, labels: Any) -> str | None:
    """Return why a model's logits cannot be exported in one pass; None if they can.

    Args:
        plans, configuration, labels: nnU-Net's PlansManager, ConfigurationManager and LabelManager.
    """
    resample = configuration.resampling_fn_probabilities
    if resample.func is not resample_data_or_seg_to_shape:
        return f"the plans resample probabilities by {resample.func.__name__}"
    options = resample.keywords
    if unknown := sorted(set(options) - KNOWN_OPTIONS):
        return f"the plans resample probabilities with {', '.join(unknown)}"
    if options.get("is_seg", False):
        return "the plans resample probabilities as labels"
    if options.get("order", 3) not in (0, 1) or options.get("order_z", 0) not in (0, 1):
        return "the plans resample probabilities by splines of a higher order"
    if type(labels) is not LabelManager:
        return f"the plans name a label manager of their own, {type(labels).__name__}"
    if labels.inference_nonlin not in (torch.sigmoid, softmax_helper_dim0):
        return "the label manager has an activation of its own"
    return None


@dataclass(frozen=True)
class Target:
    """Grid on which labels are wanted, and how the network's grid maps to it.

    shape       of the image in the network's order of axes
    box         part of it that the network saw
    transpose   axes that bring an array back into the image's own order
    """

    resampling: Resampling
    shape: tuple[int, ...]
    box: Box
    transpose: tuple[int, ...]

    @classmethod
    def of_image(cls, plans: Any, configuration: Any, properties: dict, logits_shape: Sequence[int]) -> Target:
        """Return the target of logits (K, x, y, z) whose image nnU-Net preprocessed with these `properties`."""
        inside = properties["shape_after_cropping_and_before_resampling"]
        spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
        of_network = [*spacing[: len(inside) - len(configuration.spacing)], *configuration.spacing]
        options = configuration.resampling_fn_probabilities.keywords
        return cls(
            Resampling.from_plans(options, logits_shape[1:], inside, of_network, spacing),
            tuple(int(n) for n in properties["shape_before_cropping"]),
            tuple(slice(int(first), int(last)) for first, last in properties["bbox_used_for_cropping"]),  # type: ignore[arg-type]
            tuple(plans.transpose_backward),
        )


def segment(logits: Tensor, target: Target, labels: LabelManager, n_threads: int | None = None) -> np.ndarray:
    """Return the label map of an image, in the image's own order of axes.

    Args:
        logits: (K, x, y, z) in float16 or float32, on the CPU or a GPU, where they are then interpolated.
        n_threads: on the CPU; None: chosen.
    """
    segmentation = np.zeros(target.shape, label_type(labels))
    decide(logits, target.resampling, labels, segmentation[target.box], n_threads)
    return segmentation.transpose(target.transpose)


def label_type(labels: LabelManager) -> type[np.unsignedinteger[Any]]:
    """Return the type in which nnU-Net holds these labels."""
    return np.uint8 if len(labels.foreground_labels) < 255 else np.uint16


def decide(
    logits: Tensor,
    resampling: Resampling,
    labels: LabelManager,
    target: np.ndarray,
    n_threads: int | None = None,
) -> None:
    """Write the labels of resampled logits into `target`, (x', y', z')."""
    names = np.arange(len(logits)) if not labels.has_regions else np.array([0, *labels.regions_class_order])
    maps = resampling.interpolations()
    if logits.device.type == "cpu":
        _decide_on_cpu(_as_array(logits), maps, labels.has_regions, names.astype(target.dtype), target, n_threads)
    else:
        decide_in_slabs(logits, maps, labels.has_regions, names, target)


def _decide_on_cpu(
    logits: np.ndarray,
    maps: Sequence[Interpolation],
    are_regions: bool,
    names: np.ndarray,
    target: np.ndarray,
    n_threads: int | None,
) -> None:
    codes = np.empty(logits.shape[1:], np.uint16)
    encode = label_kernels.code_regions if are_regions else label_kernels.code_argmax
    _in_threads(lambda *part: encode(logits, codes, *part), len(codes), n_threads)

    def decide_planes(first: int, last: int) -> None:
        label_kernels.decide_labels(
            logits, codes, *_columns(maps), names, are_regions, target, first, last
        )

    _in_threads(decide_planes, len(target), n_threads)


def decide_in_slabs(
    logits: Tensor,
    maps: Sequence[Interpolation],
    are_regions: bool,
    names: np.ndarray,
    target: np.ndarray,
    slab_bytes: int | None = None,
) -> None:
    """Write the labels of resampled logits into `target`, computed by torch where the logits are.

    Interpolation is in float32, not float64, so logits may round to another neighbour where two labels tie.

    Args:
        slab_bytes: of memory for the planes that are interpolated at once; None: by what is free.
    """
    n_y, n_z = target.shape[1:]
    bytes_per_plane = 4 * 4 * len(logits) * max(n_y, logits.shape[2]) * max(n_z, logits.shape[3])
    if slab_bytes is None:
        slab_bytes = min(DEVICE_BYTES, torch.cuda.mem_get_info(logits.device)[0] // 2)
    step = max(1, slab_bytes // bytes_per_plane)
    for first in range(0, len(target), step):
        values = _interpolate_axis(logits, 1, maps[0], slice(first, first + step))
        for axis in (2, 3):
            values = _interpolate_axis(values, axis, maps[axis - 1], slice(None))
        values = values.to(logits.dtype)
        if are_regions:
            codes = torch.arange(1, len(logits) + 1, device=logits.device, dtype=torch.int32)
            winner = ((values > 0) * codes[:, None, None, None]).amax(0)
        else:
            winner = values.argmax(0).int()
        target[first : first + step] = names[winner.cpu().numpy()]


def _interpolate_axis(values: Tensor, axis: int, along: Interpolation, part: slice) -> Tensor:
    """Interpolate a part of the output along an axis of (K, x, y, z), in float32."""
    shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
    low, high, weights = (
        torch.from_numpy(np.ascontiguousarray(array[part])).to(values.device)
        for array in (along.low, along.high, along.weights)
    )
    lower, upper = weights.float().unbind(1)
    result = values.index_select(axis, low).float().mul_(lower.view(shape))
    if not torch.equal(low, high):
        result.addcmul_(values.index_select(axis, high).float(), upper.view(shape))
    return result


def iterate_probabilities(
    logits: Tensor, target: Target, labels: LabelManager, n_threads: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the probabilities of one channel after the other, in the image's own order of axes.

    Outside of the box that the network saw, background has probability 1. Three arrays of the image's size
    in float32 are held at a time, however many channels there are; without regions each logit is interpolated
    twice, for the sum of exponentials comes first.
    """
    stored = _as_array(logits.cpu())
    maps = target.resampling.interpolations()
    columns = _columns(maps)
    highest, total = np.zeros((2, *target.resampling.new_shape), np.float32)

    def interpolate(channel: np.ndarray, result: np.ndarray) -> None:
        _in_threads(
            lambda *part: label_kernels.interpolate_planes(channel, *columns, result, *part),
            len(result),
            n_threads,
        )

    def sum_exponentials(first: int, last: int) -> None:
        planes = np.empty((len(stored), last - first, *highest.shape[1:]), np.float32)
        part = tuple(
            tuple(array[first:last] if axis == 0 else array for axis, array in enumerate(arrays))
            for arrays in columns
        )
        for channel, result in zip(stored, planes, strict=True):
            label_kernels.interpolate_planes(channel, *part, result, 0, last - first)
        planes.max(0, out=highest[first:last])
        planes -= highest[first:last]
        np.exp(planes, out=planes).sum(0, out=total[first:last])

    if not labels.has_regions:
        _in_threads(sum_exponentials, len(total), n_threads, most=1)
    for k, channel in enumerate(stored):
        whole = np.full(target.shape, float(k == 0 and not labels.has_regions), np.float32)
        inside = whole[target.box]
        interpolate(channel, inside)
        if labels.has_regions:
            np.copyto(inside, torch.sigmoid(torch.from_numpy(inside)).numpy())
        else:
            inside -= highest
            np.exp(inside, out=inside)
            inside /= total
        yield whole.transpose(target.transpose)


def write_probabilities(file: Path, channels: Iterator[np.ndarray], n_channels: int) -> None:
    """Write channels into an .npz file as nnU-Net does: one array, "probabilities", of (K, *image)."""
    with (
        atomic_write(file) as draft,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=DEFLATE_LEVEL) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as stream,
    ):
        for k, channel in enumerate(channels):
            if k == 0:
                described = {
                    "descr": np.lib.format.dtype_to_descr(channel.dtype),
                    "fortran_order": False,
                    "shape": (n_channels, *channel.shape),
                }
                np.lib.format.write_array_header_1_0(stream, described)
            for plane in channel:
                stream.write(np.ascontiguousarray(plane).data)


def export_prediction(
    logits: Tensor | np.ndarray,
    properties: dict,
    configuration: Any,
    plans: Any,
    dataset: dict,
    target_file: str,
    save_probabilities: bool = False,
    n_threads: int | None = None,
) -> None:
    """Write the files of a prediction; arguments of nnU-Net's `export_prediction_from_logits`, in whose place
    this stands. The label map comes last, and each file is complete or does not exist."""
    labels = plans.get_label_manager(dataset)
    if find_obstacle(plans, configuration, labels):
        export_prediction_from_logits(
            logits, properties, configuration, plans, dataset, target_file, save_probabilities
        )
        return
    logits = torch.as_tensor(logits)
    target = Target.of_image(plans, configuration, properties, logits.shape)
    segmentation = segment(logits, target, labels, n_threads)
    if save_probabilities:
        channels = iterate_probabilities(logits, target, labels, n_threads)
        write_probabilities(Path(f"{target_file}.npz"), channels, len(logits))
        with atomic_write(Path(f"{target_file}.pkl")) as draft, draft.open("wb") as stream:
            pickle.dump(properties, stream)
    write_segmentation(segmentation, properties, plans, Path(target_file + dataset["file_ending"]))


def write_segmentation(segmentation: np.ndarray, properties: dict, plans: Any, file: Path) -> None:
    """Write a label map by the plans' writer, completely or not at all."""
    with atomic_write(file) as draft:
        plans.image_reader_writer_class().write_seg(segmentation, str(draft), properties)
        check_complete(draft)


def _as_array(logits: Tensor) -> np.ndarray:
    """Return logits as the kernels read them: float32, or float16 as its bits."""
    logits = logits.detach()
    if logits.dtype == torch.float16:
        return logits.numpy().view(np.uint16)
    return logits.float().numpy()


def _columns(maps: Sequence[Interpolation]) -> tuple[tuple[np.ndarray, ...], ...]:
    """Return interpolations along x, y and z as the kernels take them: lows, highs, weights."""
    return (
        tuple(along.low for along in maps),
        tuple(along.high for along in maps),
        tuple(along.weights for along in maps),
    )


def _in_threads(
    work: Callable[[int, int], object], n_planes: int, n_threads: int | None, most: int = PLANES
) -> None:
    """Call work(first, last) for successive planes, at most `most` at a time, in several threads."""
    parts = [(first, min(first + most, n_planes)) for first in range(0, n_planes, most)]
    with ThreadPoolExecutor(n_threads or choose_n_threads(steady=True)) as pool:
        for _ in pool.map(lambda part: work(*part), parts):
            pass
