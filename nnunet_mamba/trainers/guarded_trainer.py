"""nnU-Net's trainer, recipe and all, with what keeps a long training from being lost.

A loss that is not finite stops the run before it reaches the weights, and such weights are not loaded; a fold
is trained as its split says or not at all; checkpoints are whole or absent; the environment may ask for
checkpoints in every epoch, a number of threads, and a seed.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_mamba.inference import batched_validation
from nnunet_mamba.io.cpu import default_threads, usable_cpus
from nnunet_mamba.networks.finite import (
    NonFiniteError,
    NonFiniteWeightsError,
    check_loaded_weights,
    unwrap_model,
)
from nnunet_mamba.plans import load_template, shrink_plans
from nnunet_mamba.trainers import folds, saving, seeding
from nnunet_mamba.trainers.non_finite import (
    NonFiniteLossError,
    another_checkpoint,
    check_optimizer,
    diagnose,
    refuse_non_finite,
)
from nnunet_mamba.trainers.switches import asked_switches


class GuardedTrainer(nnUNetTrainer):
    """What all trainers of this package have in common."""

    settings: ClassVar[Mapping[str, Any]] = {}  # attributes of nnUNetTrainer, such as num_epochs
    plans_template: ClassVar[str | None] = None  # cut the plans to this budget first
    most_validated: ClassVar[int | None] = None  # cases after training, the smallest; None: all
    save_every: int
    _best_ema: float | None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net reads this very signature)
    ):
        if self.plans_template is not None:
            plans = shrink_plans(plans, load_template(self.plans_template))
        switches = asked_switches()
        resumes = plans["continue_training"]
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in self.attributes().items():
            assert hasattr(self, name), f"nnUNetTrainer has no setting {name!r}"
            setattr(self, name, value)
        self.save_every = switches.save_every or self.save_every
        self.seed = switches.seed
        if device.type == "cpu":  # nnUNetv2_train takes all processors, whoever else uses them
            torch.set_num_threads(switches.threads or default_threads(steady=self.seed is not None))
        elif switches.threads is not None:
            torch.set_num_threads(switches.threads)
        if resumes and self.local_rank == 0:
            saving.restore_previous(Path(self.output_folder))
        self._iteration = 0  # within the epoch and its phase
        self._progress_s, self._progress_at = switches.progress_s, time.monotonic()
        self._is_validating = False  # whole cases, after training

    @classmethod
    def attributes(cls) -> Mapping[str, Any]:
        """All attributes of nnUNetTrainer that this trainer sets."""
        return cls.settings

    def log_message(self, message: str) -> None:
        """Say it in the log, and on the console once, however many processes train."""
        self.print_to_log_file(message, also_print_to_console=self.local_rank == 0)

    def initialize(self) -> None:
        if self.seed is not None:
            seeding.seed_generators(seeding.derived(self.seed, seeding.NETWORK))
        super().initialize()
        self.loss.register_forward_hook(refuse_non_finite)
        unwrap_model(self.network).register_load_state_dict_post_hook(check_loaded_weights)

    def on_train_start(self) -> None:
        if self.seed is not None:
            seeding.make_deterministic(self.device.type)
        super().on_train_start()
        if self.device.type == "cpu":
            n, usable = torch.get_num_threads(), usable_cpus()
            self.log_message(f"CPU threads: {n} of {usable}; NNUNET_MAMBA_THREADS sets another number")
        if self.seed is not None:
            self.log_message(
                f"Seed {self.seed}, {torch.get_num_threads()} threads, from epoch {self.current_epoch} on"
            )

    def on_epoch_start(self) -> None:
        if self.seed is not None:
            seeds = (self.seed, seeding.EPOCH, self.local_rank, self.current_epoch)
            seeding.seed_generators(seeding.derived(*seeds))
        super().on_epoch_start()

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.seed is None:
            return super().get_dataloaders()
        with seeding.without_workers():
            train, validate = super().get_dataloaders()
        n_workers = get_allowed_n_proc_DA()
        return (
            self._seeded(train, seeding.TRAINING, self.num_iterations_per_epoch, n_workers),
            self._seeded(validate, seeding.VALIDATION, self.num_val_iterations_per_epoch, -(-n_workers // 2)),
        )

    def _seeded(self, batches: Any, purpose: int, n_per_epoch: int, n_workers: int) -> Any:
        assert self.seed is not None
        return seeding.seeded_batches(
            batches.data_loader,
            (self.seed, purpose, self.local_rank),
            self.current_epoch * n_per_epoch,
            n_workers,
            pin_memory=self.device.type == "cuda",
        )

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with saving.replacing(Path(filename)) as draft:
            super().save_checkpoint(str(draft))

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As nnU-Net does, and with the best Dice so far: nnU-Net writes `checkpoint_latest` before it looks
        whether that epoch was the best, and so forgets this when it resumes. Raises NonFiniteWeightsError for
        weights or a state of the optimizer that would train into nothing."""
        try:
            super().load_checkpoint(filename_or_checkpoint)
            check_optimizer(self.optimizer, self.network)
        except NonFiniteWeightsError as error:
            if isinstance(filename_or_checkpoint, dict):
                raise
            file = Path(filename_or_checkpoint)
            raise NonFiniteWeightsError(f"{file}: {error} {another_checkpoint(file)}") from error
        for dice in self.logger.get_value("ema_fg_dice", step=None):
            if self._best_ema is None or dice > self._best_ema:
                self._best_ema = dice

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.local_rank == 0:
            saving.forget_previous(Path(self.output_folder))

    def do_split(self) -> tuple[list[str], list[str]]:
        """As nnU-Net does, but of a fold that the split lacks it would draw one over cases, patients or not.
        Raises ValueError instead, and for a fold that has no cases on one side."""
        splits_file = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        folds.check_fold(self.fold, splits_file)
        train, validate = super().do_split()
        if self.fold != "all":
            folds.check_cases(train, validate, f"fold {self.fold} of {splits_file}")
        if self._is_validating and self.most_validated is not None:
            folder = Path(self.preprocessed_dataset_folder)
            validate = sorted(folds.smallest(validate, folder, self.most_validated))
        return train, validate

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        train, validate = super().get_tr_and_val_datasets()
        folder = self.preprocessed_dataset_folder
        there = self.dataset_class.get_identifiers(folder)
        folds.check_presence([*train.identifiers, *validate.identifiers], there, folder)
        return train, validate

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        try:
            fold = f"fold {self.fold} of {type(self).__name__}"
            self._is_validating = True
            with batched_validation(
                self.print_to_log_file, self._validated_cases(), fold, max_exporters=self.most_validated
            ):
                super().perform_actual_validation(save_probabilities)
        except NonFiniteError as error:
            self.print_to_log_file(f"The validation failed: {error}")
            raise
        finally:
            self._is_validating = False

    def _validated_cases(self) -> Iterator[str]:
        """Cases in the order of this process's validation."""
        step = dist.get_world_size() if self.is_ddp else 1
        yield from sorted(self.do_split()[1][self.local_rank :: step])

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._iteration = 0

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._iteration = 0

    def train_step(self, batch: dict) -> dict:
        return self._guarded(super().train_step, batch, "training")

    def validation_step(self, batch: dict) -> dict:
        return self._guarded(super().validation_step, batch, "validation")

    def _guarded(self, step: Any, batch: dict, phase: str) -> dict:
        """Run one step; a loss that is not finite stops the run before it can reach the weights."""
        try:
            result = step(batch)
        except (NonFiniteLossError, NonFiniteError):
            message = self._explain_non_finite(batch, phase)
            self.print_to_log_file(message)
            raise NonFiniteLossError(message) from None
        self._iteration += 1
        self._tell_progress(phase)
        return result

    def _tell_progress(self, phase: str) -> None:
        """Say on the console alone how many steps of the epoch are done, if that is wanted and it is time."""
        now = time.monotonic()
        if self._progress_s is None or self.local_rank != 0 or now - self._progress_at < self._progress_s:
            return
        self._progress_at = now
        in_training = phase == "training"
        n_steps = self.num_iterations_per_epoch if in_training else self.num_val_iterations_per_epoch
        sys.stdout.write(f"{phase} step {self._iteration}/{n_steps}\n")
        sys.stdout.flush()

    def _explain_non_finite(self, batch: dict, phase: str) -> str:
        cause = diagnose(unwrap_model(self.network), batch["data"].to(self.device))
        return (
            f"The loss is not finite in epoch {self.current_epoch}, {phase} iteration {self._iteration} "
            f"(counted from 0). {cause} Weights and checkpoints are as they were before this step. "
            "Look at the layer and the data, or lower initial_lr; "
            f"`--c` resumes from the last checkpoint in {self.output_folder}."
        )

    def plot_network_architecture(self) -> None:
        """Skipped: nnU-Net would trace the network with a full patch, which costs memory and time."""
