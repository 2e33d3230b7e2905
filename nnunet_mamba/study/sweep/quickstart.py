"""Quickstart: a study of one method on one dataset, run in this process, from images to a page.

1 data      an nnU-Net raw dataset with a few cases kept unseen, written by this process
2 plan      nnUNetv2_plan_and_preprocess
3 train     nnUNetv2_train, resumed from its checkpoint if it has one
4 predict   nnUNetv2_predict on the unseen cases, all mirrorings
5 score     nnunet-mamba evaluate: Dice and HD95 per case and label, results.csv
6 report    report.html, report.png, results.json

A step that has lost a file is done again, and so are all that follow; a trained network is kept.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import count_usable_cpus, get_passive_wait_variables
from nnunet_mamba.io.locks import find_owner, hold_lock
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.nnunet import commands
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn, format_duration
from nnunet_mamba.nnunet.heartbeat import Heartbeat
from nnunet_mamba.nnunet.paths import FOLDERS, Method
from nnunet_mamba.nnunet.preprocessing import get_configuration
from nnunet_mamba.nnunet.subprocesses import interrupt_on_signals
from nnunet_mamba.study.datasets.readers import read_source
from nnunet_mamba.study.datasets.source import InvalidDatasetError
from nnunet_mamba.study.datasets.unseen import choose_name, write_with_unseen
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import DONE, Layout, Record, utc_now
from nnunet_mamba.study.sweep.run_graph import FILE, RunGraph, build_run_graph, read_run_graph
from nnunet_mamba.study.sweep.run_job import describe_owner, is_done
from nnunet_mamba.study.sweep.study import STOCK_PLANS, Dataset, DatasetNames, Plans, Study, TestSet
from nnunet_mamba.study.sweep.training_jobs import PLANNING, build_predict_jobs, build_train_job

DATA, PLAN, REPORT = "data", "plan", "report"  # the first and the last step have no command
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

    def options(self) -> dict[str, Any]:
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
    lock = hold_lock(Layout(out).locks / "study.lock", log, owner=owner)
    with interrupt_on_signals(), lock, Heartbeat(log) as heartbeat:
        heartbeat.doing = "checking what was asked for"
        run = Run(settings, out, heartbeat)
        run.check()
        os.environ.update(run.graph.variables)
        try:
            run.run()
        except KeyboardInterrupt:
            log(f"\nInterrupted. Run the same command to resume; finished steps are in {out}.")
            raise
    return out / "report.html"


def check_folder(settings: Settings, out: Path) -> None:
    """Raise ValueError for a folder that holds other things, or a quickstart with other settings."""
    earlier = read_run_graph(out).jobs.get(PLAN) if (out / FILE).is_file() else None
    if earlier is None:
        if (out / "stages.json").is_file():
            raise ValueError(f"{out} was made by an earlier version; choose another --out, or remove it.")
        if out.is_dir() and any(child.name != "locks" for child in out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no quickstart ({FILE}); choose another --out.")
        return
    for option, value in settings.options().items():
        if (other := earlier.cache_inputs.get(option)) != value:
            raise ValueError(
                f"{out} holds a quickstart with {option} {other}, not {value}. "
                f"Repeat that one to resume it, choose another --out, or remove the folder."
            )


def shared_variables(out: Path) -> dict[str, str]:
    """Return the variables of all commands, by name."""
    return {
        **{name: str(out / name) for name in FOLDERS},
        commands.EXTERNAL: commands.get_trainer_folders(),
        "nnUNet_def_n_proc": str(commands.count_processes()),
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
    """Return a job for each step that is a command; the prediction makes a file for each case in labelsTs."""
    (method,), (fold,), (test,) = names.study.methods, names.study.folds, names.dataset.tests
    labels, n = names.raw / "labelsTs", str(commands.count_processes())
    options = ("-c", method.configuration, "-npfp", n, "-np", n, "--verify_dataset_integrity")
    plan = Command("nnUNetv2_plan_and_preprocess", ("-d", names.number, *options), PLANNING)
    plans = names.preprocessed / f"{method.plans}.json"
    train = build_train_job(names, method, None, fold, method.trainer)
    own = {"nnUNet_n_proc_DA": train.command.variables["nnUNet_n_proc_DA"]}  # all else is exported
    (predict,) = build_predict_jobs(names, method, None, test)
    words = (*predict.command.arguments, "-npp", "0", "-nps", "0")  # so that lines come in order
    (folder,), table = predict.products, names.study.out / "results.csv"
    cases = [folder / file.name for file in sorted(labels.glob("*"))]
    score = ("evaluate", str(folder), str(labels), "--metrics", "dice", "hd95", "--out", str(table))
    return [
        Job(PLAN, "plan", plan, products=(plans,), cache_inputs=settings.options()),
        replace(train, command=replace(train.command, variables=own), data=None),  # nobody shares its data
        replace(
            predict, command=Command(predict.command.program, words), products=(*cases, folder), sources=()
        ),
        Job("score", "evaluate", Command("nnunet-mamba", score), (predict.name,), products=(table,)),
    ]


class Run:
    """One run of all steps, one after the other, each skipped if it is done."""

    def __init__(self, settings: Settings, out: Path, log: Heartbeat) -> None:
        self.settings = settings
        self.log = log
        self.names = make_study(settings, out)
        self.folders = {DATA: self.names.raw, PLAN: self.names.preprocessed}  # no file of which may be lost
        self.graph = self.build_graph()
        self.started_at = time.monotonic()
        self.to_export = dict(self.graph.variables)

    def build_graph(self) -> RunGraph:
        """Return the graph of the jobs; they adopt what is in their folders, which nobody else writes to."""
        out, jobs = self.names.study.out, build_jobs(self.names, self.settings)
        return build_run_graph("quickstart", out, shared_variables(out), jobs, adopt=True)

    def check(self) -> None:
        """Raise ValueError for data that are no dataset, an unknown trainer, or a command still at work."""
        if not self.find_done(DATA):
            if self.settings.data and (issues := read_source(self.settings.data).issues):
                raise InvalidDatasetError(issues)
            if self.settings.trainer != DEMO_TRAINER:
                commands.check_trainer_found(self.settings.trainer, self.graph.variables)
        for job in self.graph.jobs.values():
            if worker := find_owner(self.graph.layout.lock(job)):
                raise ValueError(f"A command of a killed run is still at work: {worker}; wait, or stop it.")

    def run(self) -> None:
        self.graph.write()  # from now on the folder is the quickstart's
        steps = [DATA, *self.graph.jobs]
        for k, step in enumerate(steps, start=1):
            done = self.find_done(step)
            self.start_step(step, done)
            if done is None:
                for later in steps[k:]:  # of a training its validation goes: the network is kept
                    remove(self.graph.jobs[later].products[-1])
                self.run_step(step)
        from nnunet_mamba.study.sweep.quickstart_outcome import write_outcome  # imports torch and matplotlib

        self.start_step(REPORT)
        for line in write_outcome(self.settings, self.graph, self.names.dataset.name):
            self.log(line)

    def start_step(self, step: str, done: Record | None = None) -> None:
        """Log that the step starts, or that it was done before."""
        steps = [DATA, *self.graph.jobs, REPORT]
        elapsed = format_duration(time.monotonic() - self.started_at)
        state = f": done before, in {format_duration(done.seconds)}" if done else f"   (elapsed {elapsed})"
        self.log(f"[{steps.index(step) + 1}/{len(steps)}] {step}{state}")
        self.log.doing = step

    def log_indented(self, text: str) -> None:
        self.log(f"      {text}")

    def find_done(self, step: str) -> Record | None:
        """Return the record of a step that is done and has lost no file, else None."""
        graph, folder = self.graph, self.folders.get(step)
        record = graph.layout.read_record(step)
        if record is None or (folder and not all((folder / name).is_file() for name in record.products)):
            return None
        if step in graph.jobs:
            if not is_done(graph.jobs[step], graph.cache_keys[step], record):
                return None
            graph.layout.write_stamp(step, graph.cache_keys[step])
        return record

    def run_step(self, step: str) -> None:
        if step == DATA:
            self.write_data()
        else:
            self.run_command(self.graph.jobs[step])
        if step in self.folders and (record := self.graph.layout.read_record(step)):
            folder = self.folders[step]
            files = (
                file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()
            )
            self.graph.layout.write_record(replace(record, products=tuple(files)))

    def write_data(self) -> None:
        remove(self.names.raw)
        start, options = time.monotonic(), {"n_unseen": self.settings.n_unseen, "seed": self.settings.seed}
        write_with_unseen(self.settings.data, self.names.raw, **options, log=self.log_indented)
        seconds, origin = time.monotonic() - start, (utc_now(), socket.gethostname(), os.getpid())
        self.graph.layout.write_record(Record(DATA, "convert", DONE, "", {}, 1, *origin, "", seconds=seconds))
        self.graph = self.build_graph()
        self.graph.write()

    def run_command(self, job: Job) -> None:
        if job.kind == "plan":
            remove(self.names.preprocessed)  # an interrupted attempt may have left half a file
        if job.kind == "train":  # the plans must have the configuration
            plans = json.loads(self.graph.jobs[PLAN].products[0].read_text(encoding="utf-8"))
            get_configuration(plans, self.settings.configuration)
        if job.kind == "predict":
            self.restore_model()
        for name in list(self.to_export):
            self.log_indented(f"export {name}={shlex.quote(self.to_export.pop(name))}")
        self.graph.run(job.name, partial(self.log_command, job))

    def restore_model(self) -> None:
        """Write lost files that nnU-Net predicts by, as a training does when it starts."""
        checkpoint = self.graph.jobs["train"].products[0]
        for name, key in (("plans.json", "plans"), ("dataset.json", "dataset_json")):
            if not (file := checkpoint.parents[1] / name).is_file():
                write_json(file, load_restricted(checkpoint)["init_args"][key])

    def log_command(self, job: Job, text: str) -> None:
        """Log a line of a job, but not its table of scores: that comes last."""
        starts, program = text.startswith("$ "), job.command.program
        if starts or job.kind != "evaluate" or text.startswith(job.name):
            self.log_indented(text)
        doing = f"{program} is starting (loading takes 10 to 60 s)" if starts else program
        if self.log.doing != doing:
            self.log.doing = doing


def remove(product: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(product, ignore_errors=True)
    product.unlink(missing_ok=True)
