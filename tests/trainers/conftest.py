"""Batches also for trainers of a single output, whose target nnU-Net gives as a tensor."""

import pytest
import torch


@pytest.fixture
def make_single_batch():
    """A function: a random batch for an initialised trainer without deep supervision."""

    def make(trainer) -> dict:
        generator = torch.Generator().manual_seed(0)
        grid = trainer.configuration_manager.patch_size
        n_labels = trainer.label_manager.num_segmentation_heads
        shape = (trainer.batch_size, 1, *grid)
        return {
            "data": torch.randn(trainer.batch_size, trainer.num_input_channels, *grid, generator=generator),
            "target": torch.randint(0, n_labels, shape, generator=generator).float(),
        }

    return make
