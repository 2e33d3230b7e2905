"""nnU-Net's trainer, with its own recipe, and guards that keep a long training from being lost.

A loss that is not finite stops the run before it reaches the weights, and weights that are not finite are not
loaded. A fold is trained as the split says, or not at all. Checkpoints are complete or absent. Environment
variables set the epochs between checkpoints, the number of threads, and a seed.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_mamba.inference import batched_validation
from nnunet_mamba.io.cpu import choose_n_threads, count_usable_cpus
from nnunet_mamba.networks.finite import (
    NonFiniteError,
    NonFiniteWeightsError,
    check_loaded_weights,
    unwrap_model,
)
from nnunet_mamba.plans import load_template, shrink_plans
from nnunet_mamba.trainers import checkpointing, folds, reproducibility
from nnunet_mamba.trainers.environment import THREADS, EnvironmentSettings
from nnunet_mamba.trainers.nan_guard import (
    NonFiniteLossError,
    check_finite_loss,
    check_optimizer,
    diagnose,
)


class GuardedTrainer(nnUNetTrainer):
    """Base class of all trainers of this package."""

    settings: ClassVar[Mapping[str, Any]] = {}  # attributes of nnUNetTrainer, such as num_epochs
    plans_template: ClassVar[str | None] = None  # cut the plans to this budget first
    max_validation_cases: ClassVar[int | None] = None  # after training, the smallest ones; None: all
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
        environment = EnvironmentSettings.from_environ()
        resumes = plans["continue_training"]
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in self.attributes().items():
            assert hasattr(self, name), f"nnUNetTrainer has no setting {name!r}"
            setattr(self, name, value)
        self.save_every = environment.save_every or self.save_every
        self.seed = environment.seed
        if device.type == "cpu":  # nnUNetv2_train uses all processors, even those that are busy
            torch.set_num_threads(environment.threads or choose_n_threads(steady=self.seed is not None))
        elif environment.threads is not None:
            torch.set_num_threads(environment.threads)
        if resumes and self.local_rank == 0:
            checkpointing.restore_previous(Path(self.output_folder))
        self._iteration = 0  # within the epoch and its phase
        self._progress_s, self._progress_at = environment.progress_s, time.monotonic()
        self._is_validating = False  # on whole cases, after training

    @classmethod
    def attributes(cls) -> Mapping[str, Any]:
        """Return all attributes of nnUNetTrainer that this trainer sets."""
        return cls.settings

    def log_message(self, message: str) -> None:
        """Write a message to the log, and to the console once, however many processes train."""
        self.print_to_log_file(message, also_print_to_console=self.local_rank == 0)

    def initialize(self) -> None:
        if self.seed is not None:
            seed = reproducibility.derive_seed(self.seed, reproducibility.NETWORK)
            reproducibility.seed_generators(seed)
        super().initialize()
        self.loss.register_forward_hook(check_finite_loss)
        unwrap_model(self.network).register_load_state_dict_post_hook(check_loaded_weights)

    def on_train_start(self) -> None:
        if self.seed is not None:
            reproducibility.make_deterministic(self.device.type)
        super().on_train_start()
        if self.device.type == "cpu":
            n, usable = torch.get_num_threads(), count_usable_cpus()
            self.log_message(f"CPU threads: {n} of {usable}; {THREADS} sets another number")
        if self.seed is not None:
            self.log_message(
                f"Seed {self.seed}, {torch.get_num_threads()} threads, from epoch {self.current_epoch} on"
            )

    def on_epoch_start(self) -> None:
        if self.seed is not None:
            path = (reproducibility.EPOCH, self.local_rank, self.current_epoch)
            reproducibility.seed_generators(reproducibility.derive_seed(self.seed, *path))
        super().on_epoch_start()

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.seed is None:
            return super().get_dataloaders()
        with reproducibility.disable_workers():
            train, validate = super().get_dataloaders()
        n, n_workers = self.num_iterations_per_epoch, get_allowed_n_proc_DA()
        n_val, n_val_workers = self.num_val_iterations_per_epoch, -(-n_workers // 2)
        return (
            self._make_seeded(train, reproducibility.TRAINING, n, n_workers),
            self._make_seeded(validate, reproducibility.VALIDATION, n_val, n_val_workers),
        )

    def _make_seeded(self, batches: Any, purpose: int, n_per_epoch: int, n_workers: int) -> Any:
        assert self.seed is not None
        return reproducibility.make_seeded_batches(
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
        with checkpointing.atomic_checkpoint(Path(filename)) as draft:
            super().save_checkpoint(str(draft))

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint as nnU-Net does, and restore the best Dice so far.

        nnU-Net writes `checkpoint_latest` before it checks whether that epoch was the best, and so forgets
        this when it resumes. Raises NonFiniteWeightsError for weights, or a state of the optimizer, that are
        not finite.
        """
        try:
            super().load_checkpoint(filename_or_checkpoint)
            check_optimizer(self.optimizer, self.network)
        except NonFiniteWeightsError as error:
            if isinstance(filename_or_checkpoint, dict):
                raise
            file = Path(filename_or_checkpoint)
            advice = checkpointing.suggest_checkpoint(file)
            raise NonFiniteWeightsError(f"{file}: {error} {advice}") from error
        for dice in self.logger.get_value("ema_fg_dice", step=None):
            if self._best_ema is None or dice > self._best_ema:
                self._best_ema = dice

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.local_rank == 0:
            checkpointing.remove_previous(Path(self.output_folder))

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the cases for training and validation, as nnU-Net does.

        Raises ValueError for a fold that the split lacks, where nnU-Net would draw one at random over cases
        regardless of patients, and for a fold without cases on one side.
        """
        splits_file = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
        folds.check_fold(self.fold, splits_file)
        train, validate = super().do_split()
        if self.fold != "all":
            folds.check_fold_not_empty(train, validate, f"fold {self.fold} of {splits_file}")
        if self._is_validating and self.max_validation_cases is not None:
            folder = Path(self.preprocessed_dataset_folder)
            validate = sorted(folds.find_smallest(validate, folder, self.max_validation_cases))
        return train, validate

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        train, validate = super().get_tr_and_val_datasets()
        folder = self.preprocessed_dataset_folder
        preprocessed = self.dataset_class.get_identifiers(folder)
        folds.check_preprocessed([*train.identifiers, *validate.identifiers], preprocessed, folder)
        return train, validate

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        try:
            fold = f"fold {self.fold} of {type(self).__name__}"
            self._is_validating = True
            with batched_validation(
                self.print_to_log_file,
                self._validated_cases(),
                fold,
                max_exporters=self.max_validation_cases,
            ):
                super().perform_actual_validation(save_probabilities)
        except NonFiniteError as error:
            self.print_to_log_file(f"The validation failed: {error}")
            raise
        finally:
            self._is_validating = False

    def _validated_cases(self) -> Iterator[str]:
        """Yield the cases in the order in which this process validates them."""
        step = dist.get_world_size() if self.is_ddp else 1
        yield from sorted(self.do_split()[1][self.local_rank :: step])

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._iteration = 0

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._iteration = 0

    def train_step(self, batch: dict) -> dict:
        return self._run_guarded(super().train_step, batch, "training")

    def validation_step(self, batch: dict) -> dict:
        return self._run_guarded(super().validation_step, batch, "validation")

    def _run_guarded(self, step: Callable[[dict], dict], batch: dict, phase: str) -> dict:
        """Run one step; a loss that is not finite stops the run before it can reach the weights."""
        try:
            result = step(batch)
        except (NonFiniteLossError, NonFiniteError):
            message = self._explain_non_finite(batch, phase)
            self.print_to_log_file(message)
            raise NonFiniteLossError(message) from None
        self._iteration += 1
        self._report_progress(phase)
        return result

    def _report_progress(self, phase: str) -> None:
        """Write to the console alone how many steps of the epoch are done, if NNUNET_MAMBA_PROGRESS is set
        and that time has passed."""
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
        """Do nothing: nnU-Net would trace the network with a full patch, which costs memory and time."""
