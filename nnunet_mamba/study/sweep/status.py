"""Where each job of a study stands, from what is on disk; a sweep need not be running.

done      its stamp is there, and so is all that it made
running   as its record says, and its owner lives
failed    its last attempt, for the same fingerprint
outdated  it was done, and what its result depends on has changed since
waiting   none of these
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_mamba.nnunet.console import duration
from nnunet_mamba.study.sweep.diagnosis import INTERRUPTED
from nnunet_mamba.study.sweep.frozen import Frozen
from nnunet_mamba.study.sweep.job import Job
from nnunet_mamba.study.sweep.leftovers import is_whole, missing
from nnunet_mamba.study.sweep.locks import holder
from nnunet_mamba.study.sweep.records import DONE, FAILED, REQUEUED, RUNNING, Layout, Record

OUTDATED, WAITING = "outdated", "waiting"
STATES = (RUNNING, FAILED, OUTDATED, WAITING, DONE)
LONGEST = 100  # characters of a detail


@dataclass(frozen=True)
class Row:
    """One job; `detail` is a line: how far it is, why it failed, what changed."""

    job: Job
    state: str
    detail: str = ""


def rows(frozen: Frozen) -> list[Row]:
    """One row per job, in the order of the graph."""
    found: dict[str, Row] = {}
    for name, job in frozen.jobs.items():
        found[name] = _row(frozen, job, found)
    return list(found.values())


def _row(frozen: Frozen, job: Job, before: Mapping[str, Row]) -> Row:
    layout = frozen.layout
    if frozen.stamp(job.name).is_file():
        if is_whole(job, frozen.fingerprints[job.name]):
            return Row(job, DONE)
        return Row(job, WAITING, f"{', '.join(missing(job)) or 'what it made'} is gone")
    record = layout.read_record(job.name)
    if record and record.state == RUNNING and holder(layout.lock(job)):
        return Row(job, RUNNING, progress_text(read_progress(layout, job.name)))
    if record is None:
        return Row(job, WAITING)
    if record.fingerprint != frozen.fingerprints[job.name]:
        changed = list(changes(record.identity, job.identity))
        changed += [f"{need} is {before[need].state}" for need in job.needs if before[need].state != DONE]
        changed += [f"{need} was edited by hand" for need in job.needs if need in frozen.edited]
        return Row(job, OUTDATED, "; ".join(changed) or "what it reads has changed")
    if record.state == FAILED and record.cause != INTERRUPTED:
        return Row(job, FAILED, f"{record.cause} (attempt {record.attempts})")
    if record.state == REQUEUED:
        return Row(job, WAITING, record.cause or "")
    return Row(job, WAITING, INTERRUPTED if record.state != DONE else "")


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """What differs between two identities, one phrase each; descriptions of trainers key by key."""
    for key in sorted({*before, *now}):
        old, new = before.get(key, ""), now.get(key, "")
        if old == new:
            continue
        old_parts, new_parts = _flat(old), _flat(new)
        if not (old_parts and new_parts):
            yield f"{key}: {_brief(old)} -> {_brief(new)}"
            continue
        for part in sorted({*old_parts, *new_parts}):
            a, b = old_parts.get(part), new_parts.get(part)
            if a != b:
                yield f"{key} {part}: {_brief(a)} -> {_brief(b)}"


def _flat(text: str) -> dict[str, Any]:
    """The leaves of a JSON object by their path; nothing for other texts."""
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


def _brief(value: Any) -> str:
    text = "nothing" if value in ("", None) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_progress(layout: Layout, name: str) -> dict[str, Any]:
    """The last numbers that a running job told; nothing at its very beginning."""
    try:
        content = json.loads(layout.progress(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def progress_text(progress: Mapping[str, Any]) -> str:
    """epoch 12/30   Dice 0.71 0.69   3:10 left"""
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
        parts.append(f"{duration(progress['seconds_left'])} left")
    return "   ".join(parts) or str(progress.get("text", ""))


def summary(table: list[Row]) -> str:
    """12 of 40 jobs done, 2 running, 1 failed"""
    n = Counter(row.state for row in table)
    others = [f"{n[state]} {state}" for state in STATES if n[state] and state != DONE]
    return ", ".join([f"{n[DONE]} of {len(table)} jobs done", *others])


def line_of(row: Row) -> str:
    return f"{row.state:9s} {row.job.name}" + (f"   {row.detail[:LONGEST]}" if row.detail else "")


def as_text(table: list[Row], *, every: bool) -> str:
    """A line per job; without `every`, those that are done or merely wait are only counted."""
    shown = [row for row in table if every or row.state not in (DONE, WAITING) or row.detail]
    lines = [line_of(row) for row in shown]
    return "\n".join([*lines, summary(table)])


def failures(frozen: Frozen) -> str:
    """What failed in the end: cause, remedy, the end of the log; and how many jobs wait for it."""
    table = rows(frozen)
    parts = [
        _failure(frozen, frozen.layout.read_record(row.job.name)) for row in table if row.state == FAILED
    ]
    n_waiting = sum(row.state in (WAITING, OUTDATED) for row in table)
    if parts and n_waiting:
        parts.append(f"{n_waiting} jobs did not run for want of these; the same command goes on from here.")
    return "\n\n".join(parts)


def _failure(frozen: Frozen, record: Record | None) -> str:
    assert record is not None
    tail = "\n".join(f"    {line}" for line in record.tail)
    return (
        f"{record.job} failed {record.attempts} times: {record.cause}\n  {record.remedy}\n{tail}\n"
        f"  log: {frozen.layout.log_file(record.job)}"
    )
