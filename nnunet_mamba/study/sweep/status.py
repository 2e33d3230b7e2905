"""State of each job of a study, from its files, whether or not a sweep is running.

done      its stamp exists, and so do all its products
running   as its record says, and its lock is held
failed    its last attempt, for the same cache key
outdated  it was done, and what its result depends on has changed since
waiting   none of these
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nnunet_mamba.io.locks import find_owner
from nnunet_mamba.nnunet.console import LogFn, format_duration
from nnunet_mamba.study.sweep.diagnosis import INTERRUPTED
from nnunet_mamba.study.sweep.existing_results import is_complete, missing_products
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.records import DONE, FAILED, REQUEUED, RUNNING, Record
from nnunet_mamba.study.sweep.run_graph import RunGraph

OUTDATED, WAITING = "outdated", "waiting"
STATES = (RUNNING, FAILED, OUTDATED, WAITING, DONE)
LONGEST = 100  # characters of a detail
POLL_S = 1.0  # between two looks at the records
LOG_EVERY_S = 60.0  # between two lines on progress outside of a terminal


@dataclass(frozen=True)
class JobStatus:
    """State of one job; `detail` is a line: its progress, the cause of its failure, or what changed."""

    job: Job
    state: str
    detail: str = ""


def read_statuses(graph: RunGraph) -> list[JobStatus]:
    """Return the status of each job, in the order of the graph."""
    found: dict[str, JobStatus] = {}
    for name, job in graph.jobs.items():
        found[name] = _read_status(graph, job, found)
    return list(found.values())


def _read_status(graph: RunGraph, job: Job, before: Mapping[str, JobStatus]) -> JobStatus:
    layout = graph.layout
    if graph.stamp(job.name).is_file():
        if is_complete(job, graph.cache_keys[job.name]):
            return JobStatus(job, DONE)
        return JobStatus(job, WAITING, f"{', '.join(missing_products(job)) or 'what it made'} is gone")
    record = layout.read_record(job.name)
    if record and record.state == RUNNING and find_owner(layout.lock(job)):
        return JobStatus(job, RUNNING, format_progress(layout.read_progress(job.name)))
    if record is None:
        return JobStatus(job, WAITING)
    if record.cache_key != graph.cache_keys[job.name]:
        changed = list(describe_changes(record.cache_inputs, job.cache_inputs))
        changed += [f"{need} is {before[need].state}" for need in job.needs if before[need].state != DONE]
        changed += [f"{need} was edited by hand" for need in job.needs if need in graph.edited]
        return JobStatus(job, OUTDATED, "; ".join(changed) or "what it reads has changed")
    if record.state == FAILED and record.cause != INTERRUPTED:
        return JobStatus(job, FAILED, f"{record.cause} (attempt {record.attempts})")
    if record.state == REQUEUED:
        return JobStatus(job, WAITING, record.cause or "")
    return JobStatus(job, WAITING, INTERRUPTED if record.state != DONE else "")


def describe_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield a phrase for each difference between cache inputs; descriptions of trainers key by key."""
    for key in sorted({*before, *now}):
        old, new = before.get(key, ""), now.get(key, "")
        if old == new:
            continue
        old_parts, new_parts = _flatten_json(old), _flatten_json(new)
        if not (old_parts and new_parts):
            yield f"{key}: {_shorten(old)} -> {_shorten(new)}"
            continue
        for part in sorted({*old_parts, *new_parts}):
            a, b = old_parts.get(part), new_parts.get(part)
            if a != b:
                yield f"{key} {part}: {_shorten(a)} -> {_shorten(b)}"


def _flatten_json(text: str) -> dict[str, Any]:
    """Return the leaves of a JSON object by their path; nothing for other texts."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return dict(_leaves(content)) if isinstance(content, dict) else {}


def _leaves(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shorten(value: Any) -> str:
    text = "nothing" if value in ("", None) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def format_progress(progress: Mapping[str, Any]) -> str:
    """Return a line as "epoch 12/30   Dice 0.71 0.69   3:10 left"."""
    parts = []
    if "epoch" in progress:
        parts.append(f"epoch {progress['epoch']}/{progress.get('of') or '?'}")
    if progress.get("dice"):
        dice = ("-" if value is None else f"{value:.2f}" for value in progress["dice"])
        parts.append("Dice " + " ".join(dice))
    if "validation_case" in progress:
        parts = [f"validates case {progress['validation_case']}"]
    if "case" in progress:
        parts.append(f"case {progress['case']}/{progress.get('cases') or '?'}")
    if progress.get("seconds_left"):
        parts.append(f"{format_duration(progress['seconds_left'])} left")
    return "   ".join(parts) or str(progress.get("text", ""))


def format_counts(statuses: list[JobStatus]) -> str:
    """Return a line as "12 of 40 jobs done, 2 running, 1 failed"."""
    n = Counter(status.state for status in statuses)
    others = [f"{n[state]} {state}" for state in STATES if n[state] and state != DONE]
    return ", ".join([f"{n[DONE]} of {len(statuses)} jobs done", *others])


def format_status(status: JobStatus) -> str:
    return f"{status.state:9s} {status.job.name}" + (f"   {status.detail[:LONGEST]}" if status.detail else "")


def format_statuses(statuses: list[JobStatus], *, every: bool) -> str:
    """Return a line per job; without `every`, jobs that are done or merely wait are only counted."""
    listed = [one for one in statuses if every or one.state not in (DONE, WAITING) or one.detail]
    return "\n".join([*map(format_status, listed), format_counts(statuses)])


def describe_failures(graph: RunGraph) -> str:
    """Return the failed jobs with cause, fix and the end of the log; and how many jobs wait for them."""
    statuses = read_statuses(graph)
    parts = [
        _describe_failure(graph, graph.layout.read_record(status.job.name))
        for status in statuses
        if status.state == FAILED
    ]
    n_waiting = sum(status.state in (WAITING, OUTDATED) for status in statuses)
    if parts and n_waiting:
        parts.append(
            f"{n_waiting} jobs did not run because they depend on these; run the command again to continue."
        )
    return "\n\n".join(parts)


def _describe_failure(graph: RunGraph, record: Record | None) -> str:
    assert record is not None
    tail = "\n".join(f"    {line}" for line in record.tail)
    return (
        f"{record.job} failed {record.attempts} times: {record.cause}\n  {record.fix}\n{tail}\n"
        f"  log: {graph.layout.log_file(record.job)}"
    )


class StatusView:
    """Display of a run: in a terminal all running jobs, redrawn in place; elsewhere a line for each job that
    starts or ends, and every minute the progress of the running ones."""

    def __init__(self, graph: RunGraph, log: LogFn) -> None:
        self.graph = graph
        self.log = log
        self.states: Mapping[str, str] = {status.job.name: status.state for status in read_statuses(graph)}
        self.logged_at = time.monotonic()
        self.height = 0  # lines that were drawn last
        self.drawing = sys.stdout.isatty()

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        while child.poll() is None:
            self.update(read_statuses(self.graph))
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
        self.update(read_statuses(self.graph))

    def update(self, statuses: list[JobStatus]) -> None:
        news = [one for one in statuses if one.state not in (self.states[one.job.name], WAITING)]
        self.states = {status.job.name: status.state for status in statuses}
        if self.drawing:
            self.erase()
        for status in news:
            self.log(format_status(status))
        running = [status for status in statuses if status.state == RUNNING]
        if self.drawing:
            self.draw([*map(format_status, running), format_counts(statuses)])
        elif time.monotonic() - self.logged_at > LOG_EVERY_S:
            self.logged_at = time.monotonic()
            for status in running:
                self.log(f"          {status.job.name}   {status.detail}")
            self.log(f"          {format_counts(statuses)}")

    def erase(self) -> None:
        if self.height:
            sys.stdout.write(f"\x1b[{self.height}F\x1b[J")
            sys.stdout.flush()

    def draw(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        visible = [line[: size.columns - 1] for line in lines[-(size.lines - 2) :]]
        sys.stdout.write("\n".join(visible) + "\n")
        sys.stdout.flush()
        self.height = len(visible)
