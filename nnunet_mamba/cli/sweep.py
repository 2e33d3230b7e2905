"""nnunet-mamba sweep: a study from one file, on one machine or a cluster."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_mamba.cli import show_help

if TYPE_CHECKING:
    from nnunet_mamba.study.sweep.frozen import Frozen


def add(commands: Any) -> None:
    p = commands.add_parser(
        "sweep",
        usage="nnunet-mamba sweep STUDY.yaml [options]\n"
        "       nnunet-mamba sweep status STUDY.yaml|FOLDER [--all]",
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
    p.add_argument("--all", action="store_true", help="of status: also what is done or waits")
    p.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # of average
    p.set_defaults(run=sweep, show_help=show_help(p))


def sweep(args: argparse.Namespace) -> int:
    if not args.words:
        return args.show_help(args)
    first, *rest = args.words
    verbs: dict[str, tuple[int, Callable[[argparse.Namespace, Sequence[str]], int]]] = {
        "status": (1, status),
        "run": (2, run_one),  # for Snakemake and SLURM
        "average": (-1, average),  # for the sweep itself
    }
    if first not in verbs:
        if rest:
            raise ValueError(f"expected one study, or `sweep status STUDY`; got {' '.join(args.words)}.")
        return study(args, Path(first))
    n, verb = verbs[first]
    if n not in (len(rest), -1):
        raise ValueError(f"`sweep {first}` takes {n} more word(s), got {len(rest)}.")
    return verb(args, rest)


def study(args: argparse.Namespace, file: Path) -> int:
    from nnunet_mamba.io.cpu import usable_cpus
    from nnunet_mamba.study.sweep import engine, script
    from nnunet_mamba.study.sweep.begin import begin, refuse_strangers
    from nnunet_mamba.study.sweep.frozen import drop_void_stamps
    from nnunet_mamba.study.sweep.locks import JobLock
    from nnunet_mamba.study.sweep.status import as_text, failures, rows

    frozen = begin(file, adopt=args.adopt, seed=args.seed)
    table = rows(frozen)
    todo = [row.job for row in table if row.state != "done"]
    if args.emit_commands:
        print(script.commands(frozen, todo).rstrip())
        return 0
    if args.dry_run:
        print(as_text(table, every=True))
    gpus = [] if args.profile or args.emit_slurm else _gpus(args.gpus)
    cores = args.cores or usable_cpus()
    _refuse_what_cannot_run(frozen, gpus, cores, args)
    refuse_strangers(frozen)
    lock = JobLock(frozen.layout.locks / "sweep.lock", job="the sweep", study=frozen.study, log=_complain)
    if args.dry_run:
        lock.check()
        print(f"a run would do {len(todo)} of {len(table)} jobs -> {frozen.out}")
        return 0
    with lock:
        drop_void_stamps(frozen)
        frozen.write()
        if args.emit_slurm:
            print(script.slurm(frozen, todo), end="")
            return 0
        print(f"{len(todo)} of {len(table)} jobs to run -> {frozen.out}")
        options = {"profile": args.profile, "say": _say, "started": lock.add_process}
        code = engine.run(frozen, cores=cores, gpus=gpus, **options)
    if trouble := failures(frozen):
        print(f"\n{trouble}", file=sys.stderr)
    print(as_text(rows(frozen), every=False))
    return 1 if code else 0


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refuse_what_cannot_run(
    frozen: "Frozen", gpus: Sequence[str], cores: int, args: argparse.Namespace
) -> None:
    if cores < 1:
        raise ValueError(f"--cores must be positive, got {cores}.")
    if found := [char for char in _not_for_slurm(args) if char in str(frozen.out)]:
        raise ValueError(
            f"{frozen.out} holds {found[0]}, which SLURM or its shell takes for something else; "
            "choose another `out`."
        )
    most = max(job.gpus for job in frozen.jobs.values())
    threads = max(job.threads for job in frozen.jobs.values() if job.gpus == most)
    if args.profile is None and not args.emit_slurm and most > len(gpus):
        raise ValueError(
            f"A training of this study takes {most} GPU(s), and there are {len(gpus)} here. Write "
            "device: cpu into the study, or run it where there are more (--profile slurm)."
        )
    if gpus and cores // threads < len(gpus) // most:
        _complain(
            f"note: {len(gpus)} GPUs, but {cores} cores suffice for {max(1, cores // threads)} training(s) "
            f"of {threads} threads at once; write fewer threads into the study to use all GPUs"
        )


def _not_for_slurm(args: argparse.Namespace) -> str:
    """Characters that sbatch replaces in the names of logs, or Snakemake's plugin leaves to a shell."""
    return '%\\"$`' if args.profile else "\\" if args.emit_slurm else ""


def _gpus(text: str | None) -> list[str]:
    """2 -> the first two; 0,3 -> these."""
    from nnunet_mamba.study.sweep.engine import available_gpus

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


def status(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Exit code 1: something failed."""
    from nnunet_mamba.study.sweep.casualties import record_slurm_ends
    from nnunet_mamba.study.sweep.frozen import read_frozen
    from nnunet_mamba.study.sweep.read import read_study
    from nnunet_mamba.study.sweep.status import as_text, rows

    place = Path(words[0])
    is_study = place.suffix in (".yaml", ".yml") and not place.is_dir()
    frozen = read_frozen(read_study(place).out if is_study else place)
    record_slurm_ends(frozen)
    table = rows(frozen)
    print(as_text(table, every=args.all))
    return 1 if any(row.state == "failed" for row in table) else 0


def run_one(args: argparse.Namespace, words: Sequence[str]) -> int:
    from nnunet_mamba.study.sweep.frozen import read_frozen
    from nnunet_mamba.study.sweep.runner import JobFailedError

    frozen = read_frozen(Path(words[0]))
    os.environ.update(frozen.variables)
    try:
        frozen.run(words[1], _say)
    except JobFailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def average(args: argparse.Namespace, words: Sequence[str]) -> int:
    from nnunet_mamba.study.evaluation import read_table, write_table
    from nnunet_mamba.study.sweep.average import average as mean_of

    if args.out is None:
        raise ValueError("`sweep average` needs --out TABLE.")
    scores = mean_of([read_table(Path(word)) for word in words])
    write_table(scores, args.out)
    print(f"{len(scores)} rows -> {args.out}")
    return 0
