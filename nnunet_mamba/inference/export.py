"""Label maps and probabilities from logits in one pass, without logits at the size of the image.

Results are nnU-Net's, voxel by voxel, where its plans resample probabilities in its own way; `find_obstacle`
says where they do not.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits, resample_and_save
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.helpers import softmax_helper_dim0
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_mamba.inference.labelling import decide, label_type
from nnunet_mamba.inference.probabilities import iterate_probabilities, write_probabilities
from nnunet_mamba.inference.resampling import Resampling, Target, get_spacings
from nnunet_mamba.io.images import check_ended

KNOWN_OPTIONS = {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}


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


def segment(logits: Tensor, target: Target, labels: LabelManager, n_threads: int | None = None) -> np.ndarray:
    """Return the label map of an image, in the image's own order of axes.

    Args:
        logits: (K, x, y, z) in float16 or float32, on the CPU or a GPU, where they are then interpolated.
        n_threads: on the CPU; None: chosen.
    """
    segmentation = np.zeros(target.shape, label_type(labels))
    decide(logits, target.resampling, labels, segmentation[target.box], n_threads)
    return segmentation.transpose(target.transpose)


@dataclass(frozen=True)
class Prediction:
    """Prediction of an image, to be written.

    segmentation   label map, or None where nnU-Net's own export makes it
    logits         where something is still to be made from them
    properties     of the image, by nnU-Net's preprocessing
    """

    segmentation: np.ndarray | None
    logits: Tensor | None
    properties: dict


class Exporter:
    """Export of predictions in one pass, or by nnU-Net's own code where `obstacle` says why.

    Args:
        plans, configuration: nnU-Net's managers of the trained model.
        dataset: its dataset.json.
        save_probabilities: write them as well, for ensembles.
        n_threads: on the CPU; None: chosen.
    """

    def __init__(
        self,
        plans: Any,
        configuration: Any,
        dataset: dict,
        *,
        save_probabilities: bool = False,
        n_threads: int | None = None,
    ) -> None:
        self.plans, self.configuration, self.dataset = plans, configuration, dataset
        self.labels = plans.get_label_manager(dataset)
        self.save_probabilities = save_probabilities
        self.n_threads = n_threads
        self.obstacle = find_obstacle(plans, configuration, self.labels)

    def segment(self, logits: Tensor, properties: dict) -> Prediction:
        """Return the labels of an image, in its own order of axes."""
        if self.obstacle:
            return Prediction(None, logits.cpu(), properties)
        target = Target.of_image(self.plans, self.configuration, properties, logits.shape)
        segmentation = segment(logits, target, self.labels, self.n_threads)
        return Prediction(segmentation, logits.cpu() if self.save_probabilities else None, properties)

    def write(self, prediction: Prediction, target: Path) -> None:
        """Write the files of a prediction, TARGET with nnU-Net's endings: all of them, or none."""
        with _drafts(target, self.dataset["file_ending"]) as draft:
            if prediction.segmentation is None:
                self._write_by_nnunet(prediction, draft)
                return
            if self.save_probabilities:
                self._write_probabilities(prediction, draft)
            file = f"{draft}{self.dataset['file_ending']}"
            writer = self.plans.image_reader_writer_class()
            writer.write_seg(prediction.segmentation, file, prediction.properties)

    def remove(self, target: Path) -> None:
        """Remove the files of an earlier prediction."""
        for ending in (self.dataset["file_ending"], ".npz", ".pkl"):
            Path(f"{target}{ending}").unlink(missing_ok=True)

    def _write_by_nnunet(self, prediction: Prediction, draft: Path) -> None:
        export_prediction_from_logits(
            prediction.logits,
            prediction.properties,
            self.configuration,
            self.plans,
            self.dataset,
            str(draft),
            self.save_probabilities,
        )

    def _write_probabilities(self, prediction: Prediction, draft: Path) -> None:
        logits = prediction.logits
        assert logits is not None  # `segment` has kept them
        target = Target.of_image(self.plans, self.configuration, prediction.properties, logits.shape)
        channels = iterate_probabilities(logits, target, self.labels, self.n_threads)
        write_probabilities(Path(f"{draft}.npz"), channels, len(logits))
        with Path(f"{draft}.pkl").open("wb") as stream:
            pickle.dump(prediction.properties, stream)


@contextmanager
def _drafts(target: Path, label_ending: str) -> Iterator[Path]:
    """Yield a path in a folder of its own to write files TARGET.* at; they are moved when the block ends
    without error, the label map last, whose presence means that all are there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".partial-{target.name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / target.name
        files = sorted(folder.iterdir(), key=lambda file: file.name.endswith(label_ending))
        for file in files:
            check_ended(file)
        for file in files:
            file.replace(target.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def export_prediction(
    logits: Tensor | np.ndarray,
    properties: dict,
    configuration: Any,
    plans: Any,
    dataset: dict,
    target: str,
    save_probabilities: bool = False,
) -> None:
    """Write the files of a prediction: in place of nnU-Net's `export_prediction_from_logits`, with its
    arguments."""
    n_threads = torch.get_num_threads()
    exporter = Exporter(
        plans, configuration, dataset, save_probabilities=save_probabilities, n_threads=n_threads
    )
    exporter.write(exporter.segment(torch.as_tensor(logits), properties), Path(target))


def export_for_next_stage(
    logits: Tensor | np.ndarray,
    shape: Sequence[int],
    file: str,
    plans: Any,
    configuration: Any,
    properties: dict,
    dataset: dict,
    *others: Any,
) -> None:
    """Write labels of shape `shape` for the next stage of a cascade: in place of nnU-Net's
    `resample_and_save`, with its arguments. It still writes them, as it finds them resampled already."""
    labels = plans.get_label_manager(dataset)
    if find_obstacle(plans, configuration, labels):
        resample_and_save(logits, shape, file, plans, configuration, properties, dataset, *others)
        return
    logits = torch.as_tensor(logits)
    _, spacing = get_spacings(plans, configuration, properties)
    options = configuration.resampling_fn_probabilities.keywords
    segmentation = np.zeros(tuple(shape), label_type(labels))
    resampling = Resampling.from_plans(options, logits.shape[1:], shape, spacing, spacing)
    decide(logits, resampling, labels, segmentation)
    resampled = SimpleNamespace(
        spacing=spacing,
        patch_size=configuration.patch_size,
        resampling_fn_probabilities=lambda done, *_: done,
    )
    decided = SimpleNamespace(
        foreground_labels=labels.foreground_labels, convert_logits_to_segmentation=lambda done: done
    )
    named = SimpleNamespace(transpose_forward=plans.transpose_forward, get_label_manager=lambda _: decided)
    resample_and_save(segmentation, shape, file, named, resampled, properties, dataset, *others)
