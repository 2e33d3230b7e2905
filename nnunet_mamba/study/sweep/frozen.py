"""The graph of one run of a sweep, written down once: OUT/graph.json.

Snakemake, its jobs on other machines and `sweep status` read this file and nothing else: while a sweep runs,
what a job is called and what it is to do do not change with the study's file or the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json, write_text
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.study.sweep.digests import digest
from nnunet_mamba.study.sweep.job import Job, fingerprint
from nnunet_mamba.study.sweep.leftovers import is_whole
from nnunet_mamba.study.sweep.records import Layout
from nnunet_mamba.study.sweep.runner import run_job

FILE = "graph.json"


@dataclass(frozen=True)
class Frozen:
    """`variables` are those of all jobs, `fingerprints` by the job's name; `adopt` as `run_job` has it."""

    study: str
    out: Path
    variables: Mapping[str, str]
    jobs: Mapping[str, Job]
    fingerprints: Mapping[str, str]
    adopt: bool = False
    edited: tuple[str, ...] = ()  # the jobs whose products the user has changed

    @property
    def layout(self) -> Layout:
        return Layout(self.out)

    def job(self, name: str) -> Job:
        if name not in self.jobs:
            raise ValueError(
                f"{self.out} has no job {name!r}; `nnunet-mamba sweep status {self.out}` lists them."
            )
        return self.jobs[name]

    def stamp(self, name: str) -> Path:
        return self.layout.stamp(name, self.fingerprints[name])

    def run(self, name: str, log: LogFn) -> None:
        """Run one job, as `run_job` does, and note what it has read and made."""
        job, seed = self.job(name), self.job(name).identity.get("seed")
        stamp = self.fingerprints[name]
        run_job(
            job,
            stamp,
            self.layout,
            log=log,
            study=self.study,
            seed=int(seed) if seed else None,
            adopt=self.adopt,
            facts={"dataset": digest([job.dataset])} if job.dataset else {},
            finish=lambda: write_json(_note(job, stamp, self.layout), _digests(job)),
        )

    def write(self) -> Path:
        content = {
            "study": self.study,
            "out": str(self.out),
            "variables": dict(self.variables),
            "adopt": self.adopt,
            "edited": self.edited,
            "jobs": [self._entry(job) for job in self.jobs.values()],
        }
        write_text(self.out / FILE, json.dumps(content, indent=1, default=str) + "\n")
        return self.out / FILE

    def _entry(self, job: Job) -> dict[str, Any]:
        stamp = self.stamp(job.name).relative_to(self.out)
        return {**asdict(job), "fingerprint": self.fingerprints[job.name], "stamp": str(stamp)}


def freeze(study: str, out: Path, variables: Mapping[str, str], jobs: Iterable[Job], adopt: bool) -> Frozen:
    """Give each job its fingerprint: by its identity, by the jobs that it needs, by what has changed in what
    it read, and by what the user has changed in what they made."""
    table = {job.name: job for job in jobs}
    layout, own = Layout(out), dict[str, str]()
    effective: dict[str, str] = {}
    edited: list[str] = []
    for name, job in table.items():
        own[name] = _own(job, fingerprint(job, effective), layout)
        changed = _changed(job, own[name], "watched", layout)
        effective[name] = f"{own[name]} edited {changed}" if changed else own[name]
        edited += [name] if changed else []
    return Frozen(study, out, variables, table, own, adopt, tuple(edited))


def _own(job: Job, base: str, layout: Layout) -> str:
    """The fingerprint of a job whose sources may have changed since it was done."""
    changed = _changed(job, base, "sources", layout)
    return hashlib.sha256(f"{base} {changed}".encode()).hexdigest()[:16] if changed else base


def drop_void_stamps(frozen: Frozen) -> None:
    """A job whose products have vanished, or were made anew for another study, is not done."""
    for job in frozen.jobs.values():
        if not is_whole(job, frozen.fingerprints[job.name]):
            frozen.stamp(job.name).unlink(missing_ok=True)


def _changed(job: Job, stamp: str, which: str, layout: Layout) -> str | None:
    """The digest of a job's `sources` or `watched` files now, if it differs from when the job was done."""
    note, paths = _note(job, stamp, layout), getattr(job, which)
    if not paths or not note.is_file():
        return None
    then, now = json.loads(note.read_text(encoding="utf-8"))[which], digest(paths)
    return now if then != now else None


def _digests(job: Job) -> dict[str, str]:
    return {"sources": digest(job.sources), "watched": digest(job.watched)}


def _note(job: Job, stamp: str, layout: Layout) -> Path:
    return layout.record(job.name).with_name(f"{job.name}.{stamp}.files.json")


def read_frozen(out: Path) -> Frozen:
    """The graph of the study in the folder `out`."""
    file = Path(out).absolute() / FILE
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; expected the folder of a study that `nnunet-mamba sweep` began."
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    jobs = {entry["name"]: _job(entry) for entry in content["jobs"]}
    stamps = {entry["name"]: entry["fingerprint"] for entry in content["jobs"]}
    flags = content["adopt"], tuple(content["edited"])
    return Frozen(content["study"], file.parent, content["variables"], jobs, stamps, *flags)


def _job(entry: Mapping[str, Any]) -> Job:
    own = {field.name: entry[field.name] for field in fields(Job)}
    own["command"] = Command(entry["command"]["program"], tuple(entry["command"]["arguments"]),
                             entry["command"]["variables"])  # fmt: skip
    for name in ("products", "sources", "watched"):
        own[name] = tuple(Path(text) for text in own[name])
    for name in ("own_folder", "dataset"):
        own[name] = Path(own[name]) if own[name] else None
    return Job(**{**own, "needs": tuple(own["needs"]), "after": tuple(own["after"])})
