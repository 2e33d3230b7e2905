"""Cost of a sweep besides its jobs: commands that do nothing, by themselves, one by one, and as a sweep.

    python benchmarks/sweep.py --record benchmarks/results/sweep

Each way runs once in every round, in turn; medians of the rounds. "job" is the record, lock, log and progress
of `nnunet-mamba sweep run`; "sweep" is the whole of it in Snakemake, whose start is the row of an empty run.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from records import heading, surroundings, write

from nnunet_mamba.nnunet.commands import Command, find_program
from nnunet_mamba.study.sweep import scheduler
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.run_graph import RunGraph, build_run_graph

COMMAND = Command("python", ("-c", "pass"))


def build_graph(folder: Path, n_jobs: int) -> RunGraph:
    jobs = [Job(f"job_{i}", "evaluate", COMMAND, cache_inputs={"number": str(i)}) for i in range(n_jobs)]
    graph = build_run_graph("benchmark", folder, {}, jobs, adopt=False)
    graph.write()
    return graph


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alone(n_jobs: int) -> None:
    for _ in range(n_jobs):
        subprocess.run(COMMAND.argv(), check=True)


def as_jobs(graph: RunGraph) -> None:
    program = str(find_program("nnunet-mamba"))
    for name in graph.jobs:
        argv = [program, "sweep", "run", str(graph.out), name]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def as_sweep(graph: RunGraph) -> None:
    code = scheduler.run_snakemake(graph, cores=1, gpus=[], profile=None, log=lambda text: None)
    assert code == 0, "the sweep failed"


def one_round(n_jobs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        by_hand, in_sweep = build_graph(Path(folder, "a"), n_jobs), build_graph(Path(folder, "b"), n_jobs)
        return {
            "alone": seconds(lambda: alone(n_jobs)) / n_jobs,
            "job": seconds(lambda: as_jobs(by_hand)) / n_jobs,
            "sweep": seconds(lambda: as_sweep(in_sweep)),
            "nothing to do": seconds(lambda: as_sweep(in_sweep)),
        }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=10)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--record", type=Path)
    args = p.parse_args()
    rounds = [one_round(args.jobs) for _ in range(args.rounds)]
    found = {name: median(each[name] for each in rounds) for name in rounds[0]}
    per_job = (found["sweep"] - found["nothing to do"]) / args.jobs
    lines = [
        f"| {args.jobs} commands that do nothing, medians of {args.rounds} rounds | s |",
        "|---|---|",
        f"| the command by itself | {found['alone']:.2f} |",
        f"| as a job (`sweep run`): lock, record, log, stamp | {found['job']:.2f} |",
        f"| a sweep that finds nothing to do | {found['nothing to do']:.2f} |",
        f"| each job of a sweep, its start not counted | {per_job:.2f} |",
    ]
    print("\n".join(lines))
    if args.record:
        record = {**surroundings("cpu"), "n_jobs": args.jobs, "rounds": rounds}
        write(args.record, record, "\n".join([heading(record), "", *lines, ""]))


if __name__ == "__main__":
    main()
