"""Trainings of 3 epochs of 50 steps that say how fast they were, and whether every loss was finite.

nnUNetTrainerMMUNet_short and the like, for nnUNet_extTrainer; a line SHORT after each epoch. The variable
GPU_RUN_STEPS changes the 50.
"""

import math
import os
import time
from typing import Any, ClassVar

from nnunet_mamba import trainers
from nnunet_mamba.trainers.variants import index_by_name

STEPS = int(os.environ.get("GPU_RUN_STEPS", "50"))
SETTINGS = {"num_epochs": 3, "num_iterations_per_epoch": STEPS, "num_val_iterations_per_epoch": 5}


def short(base: type) -> type:
    class Short(base):  # type: ignore[misc]
        settings: ClassVar = {**base.settings, **SETTINGS}

        def train_step(self, batch: dict) -> dict:
            result = super().train_step(batch)
            self.seen = [*getattr(self, "seen", []), (time.perf_counter(), float(result["loss"]))]
            return result

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            times, losses = zip(*self.seen[-STEPS:], strict=True)
            finite = sum(map(math.isfinite, losses))
            scale: Any = self.grad_scaler.get_scale() if self.grad_scaler is not None else None
            speed = 1e3 * (times[-1] - times[0]) / (len(times) - 1)
            said = f"{finite} of {len(losses)} losses finite, {losses[0]:.3f} -> {losses[-1]:.3f}"
            said += f", {speed:.1f} ms per step with its data, scale {scale}"
            print(f"SHORT {type(self).__name__}: {said}", flush=True)

    Short.__name__ = Short.__qualname__ = f"{base.__name__}_short"
    return Short


_bases = (trainers.nnUNetTrainerMMUNet, trainers.nnUNetTrainerUMambaBot, trainers.nnUNetTrainerControl)
globals().update(index_by_name(map(short, _bases), __name__))
