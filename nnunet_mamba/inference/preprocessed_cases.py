"""Preprocessed cases of a dataset, read as a trainer's final validation reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor


class PreprocessedCases:
    """Cases of a folder of nnUNet_preprocessed.

    Args:
        folder: of one configuration's data.
        previous_stage: folder of label maps of a cascade's previous stage on this configuration's grid, of
            which each label becomes one more channel.
        labels: nnU-Net's label manager.
    """

    def __init__(self, folder: Path, previous_stage: Path | None, labels: Any) -> None:
        self.folder, self.labels = folder, labels
        self.previous_stage = str(previous_stage) if previous_stage else None
        self._kind = infer_dataset_class(str(folder))

    def names(self) -> list[str]:
        return sorted(self._kind.get_identifiers(str(self.folder)))

    def read(self, name: str) -> tuple[Tensor, dict]:
        """Return the preprocessed image of a case, (C, x, y, z), and its properties, which the export
        needs."""
        dataset = self._kind(
            str(self.folder), [name], folder_with_segs_from_previous_stage=self.previous_stage
        )
        image, _, previous, properties = dataset.load_case(name)
        image = np.array(image[:])
        if previous is not None:
            one_hot = convert_labelmap_to_one_hot(previous[:], self.labels.foreground_labels, image.dtype)
            image = np.vstack((image, one_hot))
        return torch.from_numpy(image), properties
