"""nnunet-mamba sweep: a study from one file, on one machine or a cluster.

`sweep STUDY` runs a study; `sweep status` and `schema`, and `sweep run`, which a running sweep calls, are
verbs with parsers of their own (`Parser.verbs`).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli import Parser, show_help

if TYPE_CHECKING:
    from nnunet_mamba.study.sweep.run_graph import RunGraph


def add(commands: Any) -> None:
    p = commands.add_parser(
        "sweep",
        usage="nnunet-mamba sweep STUDY.yaml [options]\n"
        "       nnunet-mamba sweep status STUDY.yaml|FOLDER [--all]\n"
        "       nnunet-mamba sweep schema",
        description="Runs what is missing or outdated of a study: convert, plan, preprocess, train each "
        "fold, predict, evaluate, compare, report; by nnU-Net's own commands, in Snakemake. Interrupted or "
        "failed, the same command goes on from there. Exit code 1: something failed, the rest is done.",
        epilog="docs/sweep.md describes the study file.",
    )
    p.add_argument("words", nargs="*", metavar="STUDY", help="a study (.yaml); `status` shows how far it is")
    here = p.add_argument_group("where")
    here.add_argument("--cores", type=int, metavar="N", help="of this machine (default: all)")
    here.add_argument("--gpus", metavar="N|I,J", help="how many, or which (default: all)")
    here.add_argument(
        "--profile", metavar="NAME", help="slurm, or a folder with a Snakemake profile of yours"
    )
    instead = p.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", action="store_true", help="say what would run, and why; refuse what a run would refuse"
    )
    instead.add_argument("--emit-commands", action="store_true", help="print a script of plain commands")
    instead.add_argument(
        "--emit-slurm", action="store_true", help="print a script that submits one SLURM job each"
    )
    p.add_argument(
        "--adopt",
        action="store_true",
        help="take what is there, and was made without a sweep, for this study's",
    )
    p.add_argument(
        "--seed", type=int, metavar="S", help="make trainings repeatable, in place of the study's seeds"
    )
    p.add_argument_group(
        "verbs",
        "status STUDY.yaml|FOLDER: the state of each job of a study, while it runs or afterwards; "
        "with --all also what is done or waits. schema: the JSON schema of study files, for editors",
    )
    p.set_defaults(run=run_study, show_help=show_help(p))
    p.verbs = _verb_parsers(p.prog)


def _verb_parsers(prog: str) -> dict[str, Parser]:
    """Return the parsers of `status`, `schema`, and of `run`, which a running sweep calls."""
    status = Parser(
        prog=f"{prog} status",
        description="Shows the state of each job of a study, also while it runs. Exit code 1: one failed.",
    )
    status.add_argument("words", nargs="*", metavar="STUDY", help="a study (.yaml), or its folder")
    status.add_argument("--all", action="store_true", help="also what is done or waits")
    status.set_defaults(run=show_status)
    schema = Parser(
        prog=f"{prog} schema",
        description="Prints the JSON schema of study files, by which editors complete and check them.",
        epilog="docs/sweep.md says how.",
    )
    schema.set_defaults(run=print_schema)
    run = Parser(prog=f"{prog} run", description="Runs one job of a study, for Snakemake and SLURM.")
    run.add_argument("words", nargs="*", metavar="WORD", help="the study's folder, and the name of the job")
    run.set_defaults(run=run_one)
    return {"status": status, "schema": schema, "run": run}


def _check_words(args: argparse.Namespace, verb: str, n: int) -> None:
    if len(args.words) != n:
        raise ValueError(f"`sweep {verb}` takes {n} more word(s), got {len(args.words)}.")


def run_study(args: argparse.Namespace) -> int:
    """Run a study, or say or write what would run. Exit code 1: something failed."""
    from nnunet_mamba.io.cpu import count_usable_cpus
    from nnunet_mamba.io.locks import hold_lock
    from nnunet_mamba.study.sweep import scheduler
    from nnunet_mamba.study.sweep.read import read_study
    from nnunet_mamba.study.sweep.run_graph import remove_stale_stamps
    from nnunet_mamba.study.sweep.run_job import describe_owner
    from nnunet_mamba.study.sweep.start import check_unmanaged_results, start
    from nnunet_mamba.study.sweep.status import describe_failures, format_statuses, read_statuses

    if not args.words:
        return args.show_help(args)
    if len(args.words) > 1:
        raise ValueError(f"expected one study, or `sweep status STUDY`; got {' '.join(args.words)}.")
    study = read_study(Path(args.words[0]))
    _check_folder(study.out, args)
    graph = start(study if args.seed is None else replace(study, seeds=(args.seed,)), adopt=args.adopt)
    statuses = read_statuses(graph)
    todo = [status.job for status in statuses if status.state != "done"]
    if args.emit_commands:
        print(scheduler.emit_commands(graph, todo).rstrip())
        return 0
    if args.dry_run:
        print(format_statuses(statuses, every=True))
    gpus = [] if args.profile or args.emit_slurm else _choose_gpus(args.gpus)
    cores = args.cores or count_usable_cpus()
    _check_resources(graph, gpus, cores, args)
    check_unmanaged_results(graph)
    owner = describe_owner(f"the sweep {graph.study}", os.getpid())
    with hold_lock(graph.layout.locks / "study.lock", _warn, owner=owner) as lock:
        if args.dry_run:
            print(f"a run would do {len(todo)} of {len(statuses)} jobs -> {graph.out}")
            return 0
        remove_stale_stamps(graph)
        graph.write()
        if args.emit_slurm:
            print(scheduler.emit_slurm(graph, todo), end="")
            return 0
        print(f"{len(todo)} of {len(statuses)} jobs to run -> {graph.out}")
        options = {"profile": args.profile, "log": _log, "lock": lock}
        code = scheduler.run_snakemake(graph, cores=cores, gpus=gpus, **options)
    if failures := describe_failures(graph):
        print(f"\n{failures}", file=sys.stderr)
    print(format_statuses(read_statuses(graph), every=False))
    return 1 if code else 0


def _log(text: str) -> None:
    print(text, flush=True)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_folder(out: Path, args: argparse.Namespace) -> None:
    """Raise ValueError for characters that sbatch replaces in names of logs, or its shell in commands."""
    chars = '%\\"$`' if args.profile else "\\" if args.emit_slurm else ""
    if found := [char for char in chars if char in str(out)]:
        raise ValueError(
            f"{out} holds {found[0]}, which SLURM or its shell takes for something else; "
            "choose another `out`."
        )


def _check_resources(graph: "RunGraph", gpus: Sequence[str], cores: int, args: argparse.Namespace) -> None:
    """Raise ValueError for a study that cannot run here; warn if the cores do not suffice for all GPUs."""
    if cores < 1:
        raise ValueError(f"--cores must be positive, got {cores}.")
    most = max(job.gpus for job in graph.jobs.values())
    threads = max(job.threads for job in graph.jobs.values() if job.gpus == most)
    if args.profile is None and not args.emit_slurm and most > len(gpus):
        raise ValueError(
            f"A training of this study takes {most} GPU(s), and there are {len(gpus)} here. Write "
            "device: cpu into the study, or run it where there are more (--profile slurm)."
        )
    if gpus and cores // threads < len(gpus) // most:
        _warn(
            f"note: {len(gpus)} GPUs, but {cores} cores suffice for {max(1, cores // threads)} training(s) "
            f"of {threads} threads at once; write fewer threads into the study to use all GPUs"
        )


def _choose_gpus(text: str | None) -> list[str]:
    """Return the GPUs for --gpus: the first two for 2, these for 0,3, all by default."""
    from nnunet_mamba.study.sweep.gpus import available_gpus

    present = available_gpus()
    if text is None:
        return present
    chosen = text.split(",")
    if not all(number.strip().isdecimal() for number in chosen):
        raise ValueError(f"--gpus is {text!r}; expected how many, as in 2, or which, as in 0,3")
    if len(chosen) > 1:
        return chosen
    if int(text) > len(present):
        raise ValueError(f"--gpus {text}: there are {len(present)} here ({', '.join(present) or 'none'}).")
    return present[: int(text)]


def show_status(args: argparse.Namespace) -> int:
    """Print the state of each job. Exit code 1: something failed."""
    from nnunet_mamba.study.sweep.run_graph import read_run_graph
    from nnunet_mamba.study.sweep.slurm import record_failed_jobs
    from nnunet_mamba.study.sweep.status import format_statuses, read_statuses

    _check_words(args, "status", 1)
    place = Path(args.words[0])
    if place.suffix in (".yaml", ".yml") and not place.is_dir():
        from nnunet_mamba.study.sweep.read import read_study

        place = read_study(place).out
    graph = read_run_graph(place)
    record_failed_jobs(graph)
    statuses = read_statuses(graph)
    print(format_statuses(statuses, every=args.all))
    return 1 if any(status.state == "failed" for status in statuses) else 0


def print_schema(args: argparse.Namespace) -> int:
    """Print the JSON schema of study files."""
    print((files("nnunet_mamba.study.sweep") / "study.schema.json").read_text(encoding="utf-8"), end="")
    return 0


def run_one(args: argparse.Namespace) -> int:
    """Run one job of a study. Exit code 1: it failed."""
    from nnunet_mamba.study.sweep.run_graph import read_run_graph
    from nnunet_mamba.study.sweep.run_job import JobFailedError

    _check_words(args, "run", 2)
    graph = read_run_graph(Path(args.words[0]))
    os.environ.update(graph.variables)
    try:
        graph.run(args.words[1], _log)
    except JobFailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
