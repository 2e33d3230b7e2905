"""Stages of a quickstart, one after the other, each skipped once it is done.

1 data     an nnU-Net raw dataset with a few cases kept unseen
2 plan     nnUNetv2_plan_and_preprocess
3 train    nnUNetv2_train, resumed from its checkpoint if it has one
4 predict  nnUNetv2_predict on the unseen cases, all mirrorings
5 score    Dice and HD95 per case and label: results.csv
6 report   report.html, report.png, results.json
"""

import json
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.nnunet.checkpoints import FINAL, recover_checkpoint, remove_unreadable_predictions
from nnunet_mamba.nnunet.commands import Command, check_trainer_found
from nnunet_mamba.nnunet.console import (
    LogFn,
    PlainLines,
    PredictionLines,
    TrainingLines,
    format_duration,
    rate_limited,
)
from nnunet_mamba.nnunet.heartbeat import Heartbeat
from nnunet_mamba.nnunet.subprocesses import interrupt_on_signals, run_child
from nnunet_mamba.study.datasets.convert import convert_dataset
from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.datasets.readers import read_source
from nnunet_mamba.study.datasets.source import ACCEPTABLE, InvalidDatasetError
from nnunet_mamba.study.datasets.splits import Fold, Split, draw_split
from nnunet_mamba.study.quickstart.commands import (
    plan_command,
    predict_command,
    shared_variables,
    train_command,
)
from nnunet_mamba.study.quickstart.workspace import DEMO_TRAINER, PLANS, Settings, Workspace

STAGES = ("data", "plan", "train", "predict", "score", "report")
PHANTOM_DATASET = "Dataset900_Phantom"
N_PHANTOMS = 28  # to train and validate on
N_VALIDATION = 4  # nnU-Net predicts each of these with 8 flips after training: seconds to minutes a case


def run_quickstart(settings: Settings, out: Path, log: LogFn) -> Path:
    """Run what is not yet done of the whole chain in the folder `out`; return the page."""
    workspace = Workspace(Path(out).resolve())
    with interrupt_on_signals(), workspace.locked() as lock, Heartbeat(log) as heartbeat:
        if not workspace.has_settings:
            heartbeat.doing = "checking what was asked for"
            check_settings(settings, workspace)
        workspace.store_settings(settings)
        chain = Chain(settings, workspace, heartbeat, lock)
        try:
            for stage in STAGES:
                chain.run_stage(stage)
        except KeyboardInterrupt:
            log(f"\nInterrupted. Run the same command to resume; finished stages are in {workspace.out}.")
            raise
    return workspace.out / "report.html"


def check_settings(settings: Settings, workspace: Workspace) -> None:
    """Raise ValueError for data that are no dataset, or a trainer that nnU-Net does not find."""
    if settings.data is not None:
        source = read_source(settings.data)
        if source.issues:
            raise InvalidDatasetError(source.issues)
    if settings.trainer != DEMO_TRAINER:
        check_trainer_found(settings.trainer, shared_variables(workspace))


class Chain:
    """One run of all stages."""

    def __init__(self, settings: Settings, workspace: Workspace, log: Heartbeat, lock: int | None) -> None:
        self.settings = settings
        self.workspace = workspace
        self.log = log
        self.lock = lock
        self.stage = STAGES[0]  # the current one
        self.commands: list[str] = []  # of the current stage
        self.started_at = time.monotonic()
        self.variables_logged = False

    def run_stage(self, stage: str) -> None:
        """Run one stage unless it is finished and its product exists; later stages then have to run again."""
        number = STAGES.index(stage) + 1
        done = self.workspace.stages().get(stage, {})
        if done.get("finished") and self.product(stage).exists():
            self.log(f"[{number}/{len(STAGES)}] {stage}: done before, in {format_duration(done['seconds'])}")
            return
        elapsed = format_duration(time.monotonic() - self.started_at)
        self.log(f"[{number}/{len(STAGES)}] {stage}   (elapsed {elapsed})")
        self.workspace.remove_stages(list(STAGES[number:]))
        self.stage, self.commands, self.log.doing = stage, [], stage
        start, finished = time.monotonic(), False
        try:
            getattr(self, stage)()
            finished = True
        finally:
            spent = time.monotonic() - start
            self.workspace.record_stage(stage, finished=finished, seconds=spent, commands=self.commands)
        self.log(f"      {stage} took {format_duration(spent)}")

    def product(self, stage: str) -> Path:
        """Return the file or folder that must exist for a stage to count as done."""
        dataset = self.workspace.dataset() or "Dataset"
        products = {
            "data": self.workspace.raw / dataset / "splits_final.json",
            "plan": self.workspace.preprocessed / dataset / f"{PLANS}.json",
            "train": self.workspace.fold(dataset, self.settings) / FINAL,
            "predict": self.workspace.predictions,
            "score": self.workspace.out / "results.csv",
            "report": self.workspace.out / "never",  # cheap, and it shows the times of this run
        }
        return products[stage]

    @property
    def dataset(self) -> str:
        name = self.workspace.dataset()
        assert name is not None, "the data stage has run"
        return name

    def data(self) -> None:
        if self.settings.data is None:
            self.write_phantom()
        elif self.workspace.dataset() is None:
            self.convert_data(self.settings.data)
        n_train, n_unseen = (len(names) for names in self.case_names())
        self.log_indented(f"{self.dataset}: {n_train} cases to train and validate on, {n_unseen} unseen")

    def case_names(self) -> tuple[list[str], list[str]]:
        """Return the labelled cases that nnU-Net may see, and those it may not."""
        raw = self.workspace.raw / self.dataset
        seen, unseen = (
            sorted(file.name for file in (raw / part).iterdir()) for part in ("labelsTr", "labelsTs")
        )
        return seen, unseen

    def write_phantom(self) -> None:
        folder = self.workspace.raw / PHANTOM_DATASET
        if not folder.exists():
            self.log_indented("drawing phantoms; --data DIR takes your own data")
            n_unseen, seed = self.settings.n_unseen, self.settings.seed
            write_phantom_dataset(folder, n_train=N_PHANTOMS, n_test=n_unseen, seed=seed)
        seen, unseen = ([name.removesuffix(".nii.gz") for name in names] for names in self.case_names())
        split = Split((Fold(tuple(seen[:-N_VALIDATION]), tuple(seen[-N_VALIDATION:])),), tuple(unseen))
        write_json(folder / "splits_final.json", split.to_json())

    def convert_data(self, data: Path) -> None:
        source = read_source(data).without_test()
        self.log_indented(f"checking {len(source.cases)} labelled cases of {data}")
        split = draw_split(
            source.labelled_names(),
            n_unseen=self.settings.n_unseen,
            n_validation=N_VALIDATION,
            seed=self.settings.seed,
        )
        progress = rate_limited(self.log_indented, "checked")
        convert_dataset(
            source,
            self.workspace.raw / source.name,
            split,
            link=True,
            accept=ACCEPTABLE,
            progress=progress,
        )

    def plan(self) -> None:
        # an interrupted attempt may have left half a file; preprocessing starts afresh
        shutil.rmtree(self.workspace.preprocessed / self.dataset, ignore_errors=True)
        self.run(plan_command(self.dataset, self.settings), PlainLines(self.log_indented))
        planned = json.loads(self.product("plan").read_text())["configurations"]
        if self.settings.configuration not in planned:
            raise ValueError(
                f"nnU-Net planned no configuration {self.settings.configuration!r} for {self.dataset}, only "
                f"{', '.join(planned)}. Choose one of these for --configuration, and another --out."
            )

    def train(self) -> None:
        shutil.rmtree(self.workspace.predictions, ignore_errors=True)  # of another network
        fold = self.workspace.fold(self.dataset, self.settings)
        resume = recover_checkpoint(fold, self.log_indented)
        command = train_command(self.dataset, self.settings, resume=resume is not None)
        if resume:
            self.log_indented(f"resuming from {resume.name}")
        self.run(command, TrainingLines(self.log_indented, fold))

    def predict(self) -> None:
        remove_unreadable_predictions(self.workspace.predictions, self.log_indented)
        self.run(
            predict_command(self.dataset, self.settings, self.workspace), PredictionLines(self.log_indented)
        )

    def score(self) -> None:
        from nnunet_mamba.study.evaluation import evaluate_folder, write_table  # imports torch
        from nnunet_mamba.study.evaluation.match import find_dataset_json

        folders = self.workspace.predictions, self.workspace.raw / self.dataset / "labelsTs"
        file = find_dataset_json(*folders)
        assert file is not None, "the data stage has written one"
        scores = evaluate_folder(*folders, file)
        write_table(scores, self.workspace.out / "results.csv")

    def report(self) -> None:
        from nnunet_mamba.study.quickstart.outcome import write_outcome  # imports torch and matplotlib

        for line in write_outcome(self.settings, self.workspace, self.dataset):
            self.log(line)

    def run(self, command: Command, show: Callable[[str], None]) -> None:
        """Print the command, run it, and show its progress."""
        variables = shared_variables(self.workspace)
        if not self.variables_logged:
            self.variables_logged = True
            for name, value in variables.items():
                self.log(f"      export {name}={shlex.quote(value)}")
        self.log(f"      $ {command}")
        self.commands.append(str(command))
        self.log.doing = f"{command.program} is starting (nnU-Net takes 10 to 60 s to load)"

        def show_line(line: str) -> None:
            if line.strip() and self.log.doing != command.program:
                self.log.doing = command.program
            show(line)

        run_child(
            command.argv(),
            environment={**variables, **command.variables},
            log_file=self.workspace.log_file(self.stage),
            show=show_line,
            inherit=() if self.lock is None else (self.lock,),
        )

    def log_indented(self, text: str) -> None:
        self.log(f"      {text}")
