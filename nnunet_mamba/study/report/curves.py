"""Learning curves out of an nnU-Net checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Curves:
    """One value per epoch. Dice is nnU-Net's pseudo Dice: of random patches of the validation cases."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    dice: tuple[float, ...]  # mean over the foreground labels
    smooth_dice: tuple[float, ...]  # its moving average, by which nnU-Net picks its best checkpoint
    epoch_s: tuple[float, ...]

    @property
    def n_epochs(self) -> int:
        return len(self.train_loss)


def read_curves(checkpoint: dict[str, Any]) -> Curves:
    """The curves in a loaded checkpoint, cut to the epochs for which all of them have a value."""
    log = checkpoint["logging"]
    named = ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")
    ends, starts = log["epoch_end_timestamps"], log["epoch_start_timestamps"]
    series = [list(map(float, log[name])) for name in named]
    series.append([float(end - start) for start, end in zip(starts, ends, strict=False)])
    n_epochs = min(map(len, series))
    return Curves(*(tuple(values[:n_epochs]) for values in series))


def load_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of a training of one's own: nnU-Net's hold pickled objects, which strangers' must not."""
    import torch

    return torch.load(file, map_location="cpu", weights_only=False)


def count_parameters(checkpoint: dict[str, Any]) -> int:
    """Trainable numbers of the network; what two names share counts once, running statistics do not."""
    weights = checkpoint["network_weights"]
    counted = {
        (tensor.untyped_storage().data_ptr(), tensor.storage_offset()): tensor.numel()
        for name, tensor in weights.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    return sum(counted.values())
