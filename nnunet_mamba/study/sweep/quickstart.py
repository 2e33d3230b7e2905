"""Quickstart: a study of one method on one dataset, run in this process, from images to a page.

1 data      an nnU-Net raw dataset with a few cases kept unseen
2 plan      nnUNetv2_plan_and_preprocess
3 train     nnUNetv2_train, resumed from its checkpoint if it has one
4 predict   nnUNetv2_predict on the unseen cases, all mirrorings
5 score     Dice and HD95 per case and label: results.csv
6 report    report.html, report.png, results.json
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_mamba.io.cpu import count_usable_cpus, get_passive_wait_variables
from nnunet_mamba.io.locks import find_owner, hold_lock
from nnunet_mamba.nnunet import commands
from nnunet_mamba.nnunet.commands import Command, count_processes
from nnunet_mamba.nnunet.console import LogFn, format_duration
from nnunet_mamba.nnunet.heartbeat import Heartbeat
from nnunet_mamba.nnunet.paths import FOLDERS, Method
from nnunet_mamba.nnunet.subprocesses import interrupt_on_signals
from nnunet_mamba.study.datasets.readers import read_source
from nnunet_mamba.study.datasets.source import InvalidDatasetError
from nnunet_mamba.study.datasets.unseen import choose_name, write_with_unseen
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import DONE, Record
from nnunet_mamba.study.sweep.run_graph import FILE, RunGraph, build_run_graph, read_run_graph
from nnunet_mamba.study.sweep.run_job import create_record, describe_owner, is_done
from nnunet_mamba.study.sweep.study import STOCK_PLANS, Dataset, DatasetNames, Plans, Study, TestSet
from nnunet_mamba.study.sweep.training_jobs import PLANNING, build_predict_jobs, build_train_job

DATA, SCORE, REPORT = "data", "score", "report"  # steps without a command
DEMO_TRAINER = "nnUNetTrainerMMUNet_demo"


@dataclass(frozen=True)
class Settings:
    """Settings that the user chose; without `data`, phantoms are drawn."""

    data: Path | None
    device: str  # cpu, cuda or mps; the only setting that may change between runs
    trainer: str
    configuration: str
    n_unseen: int
    seed: int

    def request(self) -> dict[str, Any]:
        """Return the settings that must stay the same in one folder, by option."""
        return {
            "--data": "phantom" if self.data is None else str(Path(self.data).resolve()),
            "--trainer": self.trainer,
            "--configuration": self.configuration,
            "--cases": self.n_unseen,
            "--seed": self.seed,
        }


def run_quickstart(settings: Settings, out: Path, log: LogFn) -> Path:
    """Run what is not yet done in the folder `out`; return the page.

    The variables of the commands are set in this process, too. ValueError for what cannot run and for a
    folder that holds something else, JobFailedError if a command fails.
    """
    out = Path(out).resolve()
    check_folder(settings, out)
    owner = describe_owner("the quickstart", os.getpid())
    lock = hold_lock(out / "locks" / "quickstart.lock", log, owner=owner)
    with interrupt_on_signals(), lock, Heartbeat(log) as heartbeat:
        variables = shared_variables(out)
        if not (out / FILE).is_file():
            heartbeat.doing = "checking what was asked for"
            check_settings(settings, variables)
        names = make_study(settings, out)
        graph = build_run_graph("quickstart", out, variables, build_jobs(names, settings), adopt=False)
        for job in graph.jobs.values():
            if worker := find_owner(graph.layout.lock(job)):
                raise ValueError(f"A command of a killed run is still at work: {worker}; wait, or stop it.")
        graph.write()
        os.environ.update(variables)
        try:
            Run(settings, names, graph, heartbeat).run()
        except KeyboardInterrupt:
            log(f"\nInterrupted. Run the same command to resume; finished steps are in {out}.")
            raise
    return out / "report.html"


def check_folder(settings: Settings, out: Path) -> None:
    """Raise ValueError for a folder that holds other things, or a quickstart with other settings."""
    earlier = read_run_graph(out).jobs.get(DATA) if (out / FILE).is_file() else None
    if earlier is None:
        if (out / "stages.json").is_file():
            raise ValueError(f"{out} was made by an earlier version; choose another --out, or remove it.")
        if out.is_dir() and any(child.name != "locks" for child in out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no quickstart; choose another --out.")
        return
    for option, value in settings.request().items():
        if (other := earlier.cache_inputs.get(option)) != value:
            raise ValueError(
                f"{out} holds a quickstart with {option} {other}, not {value}. "
                f"Repeat that one to resume it, choose another --out, or remove the folder."
            )


def check_settings(settings: Settings, variables: Mapping[str, str]) -> None:
    """Raise ValueError for data that are no dataset, or a trainer that nnU-Net does not find."""
    if settings.data is not None and (issues := read_source(settings.data).issues):
        raise InvalidDatasetError(issues)
    if settings.trainer != DEMO_TRAINER:
        commands.check_trainer_found(settings.trainer, variables)


def shared_variables(out: Path) -> dict[str, str]:
    """Return the variables of all commands, by name."""
    return {
        **{name: str(out / name) for name in FOLDERS},
        commands.EXTERNAL: commands.get_trainer_folders(),
        "nnUNet_def_n_proc": str(count_processes()),
        "nnUNet_compile": "f",  # compiling takes longer than a demo gains
        commands.PROGRESS: "5",
        **get_passive_wait_variables(),
    }


class Names(DatasetNames):
    """Names in a study that has one thing of each kind, and one command that plans and preprocesses."""

    def job(self, kind: str, *parts: object) -> str:
        return kind

    def preprocess_job(self, method: Method) -> str:
        return self.plan_job(method.plans)

    def predictions(self, method: Method, seed: int | None, test: str) -> Path:
        return self.study.out / "predictions"


def make_study(settings: Settings, out: Path) -> Names:
    """Return the study, all its folders in `out`, with the names of its jobs and files."""
    written = sorted(out.glob("nnUNet_raw/Dataset*"))  # by an earlier run
    raw = written[0] if written else out / "nnUNet_raw" / choose_name(settings.data)
    dataset = Dataset(raw.name, tests=(TestSet("unseen", raw / "imagesTs", raw / "labelsTs"),))
    study = Study(
        name="quickstart",
        out=out,
        device=settings.device,
        folders={name: out / name for name in FOLDERS},
        datasets=(dataset,),
        plans={STOCK_PLANS: Plans(STOCK_PLANS)},
        methods=(Method(settings.trainer, STOCK_PLANS, settings.configuration),),
        folds=("0",),
        threads=min(count_usable_cpus(), 13),  # beside a GPU all but one augment
        gpus=int(settings.device == "cuda"),
    )
    return Names(study, dataset)


def build_jobs(names: Names, settings: Settings) -> list[Job]:
    """Return a job for each step but the report."""
    (method,), (fold,), (test,) = names.study.methods, names.study.folds, names.dataset.tests
    split, table = names.raw / "splits_final.json", names.study.out / "results.csv"
    plans = names.preprocessed / f"{method.plans}.json"
    n = str(count_processes())
    options = ("-c", method.configuration, "-npfp", n, "-np", n, "--verify_dataset_integrity")
    plan = Command("nnUNetv2_plan_and_preprocess", ("-d", names.number, *options), PLANNING)
    (predict,) = build_predict_jobs(names, method, None, test)
    jobs = [
        Job(DATA, "convert", Command("", ()), products=(split,), cache_inputs=settings.request()),
        Job(names.plan_job(method.plans), "plan", plan, needs=(DATA,), products=(plans,)),
        shorten_command(build_train_job(names, method, None, fold, method.trainer)),
        shorten_command(predict, "-npp", "0", "-nps", "0"),  # in one process, so that lines come in order
        Job(SCORE, "evaluate", Command("", ()), needs=(predict.name,), products=(table,)),
    ]
    return [replace(job, sources=(), data=None) for job in jobs]  # all that is read was made by a job


def shorten_command(job: Job, *options: str) -> Job:
    """Return the job with its command as one would type it, without what is exported or nnU-Net's default."""
    words = list(job.command.arguments)
    del words[words.index("-p") : words.index("-p") + 2]
    variables = {name: text for name, text in job.command.variables.items() if name == "nnUNet_n_proc_DA"}
    return replace(job, command=Command(job.command.program, (*words, *options), variables))


class Run:
    """One run of all steps, one after the other, each skipped if it is done."""

    def __init__(self, settings: Settings, names: Names, graph: RunGraph, log: Heartbeat) -> None:
        self.settings = settings
        self.names = names
        self.graph = graph
        self.log = log
        self.started_at = time.monotonic()
        self.to_export = dict(graph.variables)

    def run(self) -> None:
        jobs = list(self.graph.jobs.values())
        for k, job in enumerate(jobs):
            record = self.graph.layout.read_record(job.name)
            if record and is_done(job, self.graph.cache_keys[job.name], record):
                self.begin(job.name, record)
                continue
            self.begin(job.name)
            for later in jobs[k + 1 :]:
                remove(later.products[-1])  # of a training its validation: the network is kept
            if job.command.program:
                self.run_command(job)
            else:
                self.run_here(job)
        self.write_report()

    def begin(self, step: str, done: Record | None = None) -> None:
        """Log that the step begins, or that it was done before."""
        steps = [*self.graph.jobs, REPORT]
        elapsed = format_duration(time.monotonic() - self.started_at)
        state = f": done before, in {format_duration(done.seconds)}" if done else f"   (elapsed {elapsed})"
        self.log(f"[{steps.index(step) + 1}/{len(steps)}] {step}{state}")
        self.log.doing = step

    def log_indented(self, text: str) -> None:
        self.log(f"      {text}")

    def run_here(self, job: Job) -> None:
        """Do a job without a command, and record it as `run_job` does one with a command."""
        layout, key = self.graph.layout, self.graph.cache_keys[job.name]
        record = create_record(job, key, None, adopted=False, seed=None)
        start = time.monotonic()
        if job.name == DATA:
            self.write_data()
        else:
            self.write_scores(job.products[0])
        record = replace(record, state=DONE, seconds=time.monotonic() - start)
        layout.write_record(record)
        layout.write_stamp(job.name, key)
        self.log_indented(f"{job.name}: done in {format_duration(record.seconds)}")

    def write_data(self) -> None:
        remove(self.names.raw)
        options = {"n_unseen": self.settings.n_unseen, "seed": self.settings.seed}
        write_with_unseen(self.settings.data, self.names.raw, **options, log=self.log_indented)

    def write_scores(self, table: Path) -> None:
        from nnunet_mamba.study.evaluation import evaluate_folder, write_table  # imports torch

        predictions, raw = self.graph.jobs["predict"].products[0], self.names.raw
        write_table(evaluate_folder(predictions, raw / "labelsTs", raw / "dataset.json"), table)

    def run_command(self, job: Job) -> None:
        if job.kind == "plan":
            remove(self.names.preprocessed)  # an interrupted attempt may have left half a file
        if job.kind == "train":
            check_planned(self.graph.jobs["plan"].products[0], self.settings.configuration)
        for name in list(self.to_export):
            self.log_indented(f"export {name}={shlex.quote(self.to_export.pop(name))}")
        self.graph.run(job.name, partial(self.log_command, job.command.program))

    def log_command(self, program: str, text: str) -> None:
        """Log a line of a job; until the first of its program, that is starting."""
        self.log_indented(text)
        starts = text.startswith("$ ")
        doing = f"{program} is starting (nnU-Net takes 10 to 60 s to load)" if starts else program
        if self.log.doing != doing:
            self.log.doing = doing

    def write_report(self) -> None:
        from nnunet_mamba.study.sweep.quickstart_outcome import write_outcome  # imports torch and matplotlib

        self.begin(REPORT)
        for line in write_outcome(self.settings, self.graph, self.names.dataset.name):
            self.log(line)


def remove(product: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(product, ignore_errors=True)
    product.unlink(missing_ok=True)


def check_planned(plans: Path, configuration: str) -> None:
    """Raise ValueError for a configuration that nnU-Net has not planned."""
    planned = json.loads(plans.read_text())["configurations"]
    if configuration not in planned:
        raise ValueError(
            f"nnU-Net planned no configuration {configuration!r} for {plans.parent.name}, only "
            f"{', '.join(planned)}. Choose one of these for --configuration, and another --out."
        )
