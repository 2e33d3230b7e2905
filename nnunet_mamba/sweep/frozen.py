"""The graph of one run of a sweep, written down once: OUT/graph.json.

Snakemake, its jobs on other machines and `sweep status` read this file and nothing else, so that what a job
is called and what it is to do cannot change while a sweep runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_mamba.running.command import Command
from nnunet_mamba.running.progress import Say
from nnunet_mamba.sweep.digests import digest
from nnunet_mamba.sweep.job import Job, fingerprint
from nnunet_mamba.sweep.records import Layout
from nnunet_mamba.sweep.runner import run_job
from nnunet_mamba.writing import write_json

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

    def run(self, name: str, say: Say) -> None:
        """Run one job, as `run_job` does, and remember what it made of the files that a user may edit."""
        job, seed = self.job(name), self.job(name).identity.get("seed")
        stamp = self.fingerprints[name]
        run_job(
            job,
            stamp,
            self.layout,
            say=say,
            study=self.study,
            seed=int(seed) if seed else None,
            adopt=self.adopt,
        )
        if job.watched:
            write_json(_note(job, self.layout), {"fingerprint": stamp, "digest": digest(job.watched)})

    def write(self) -> Path:
        content = {
            "study": self.study,
            "variables": dict(self.variables),
            "adopt": self.adopt,
            "jobs": [self._entry(job) for job in self.jobs.values()],
        }
        write_json(self.out / FILE, json.loads(json.dumps(content, default=str)))
        return self.out / FILE

    def _entry(self, job: Job) -> dict[str, Any]:
        stamps = {"fingerprint": self.fingerprints[job.name], "stamp": str(self.stamp(job.name))}
        return {**asdict(job), **stamps}


def freeze(study: str, out: Path, variables: Mapping[str, str], jobs: Iterable[Job], adopt: bool) -> Frozen:
    """Give each job its fingerprint: by its identity, by the jobs that it needs, and by what the user has
    changed since in their products."""
    table = {job.name: job for job in jobs}
    layout, own = Layout(out), dict[str, str]()
    effective: dict[str, str] = {}
    for name, job in table.items():
        own[name] = fingerprint(job, effective)
        edited = _edited(job, own[name], layout)
        effective[name] = f"{own[name]} edited {edited}" if edited else own[name]
    return Frozen(study, out, variables, table, own, adopt)


def drop_void_stamps(frozen: Frozen) -> None:
    """A job whose products have vanished is not done, whatever its stamp says."""
    for job in frozen.jobs.values():
        if not all(product.exists() for product in job.products):
            frozen.stamp(job.name).unlink(missing_ok=True)


def _edited(job: Job, stamp: str, layout: Layout) -> str | None:
    """The digest of what the user has made of the job's products; None if they are as it left them."""
    note = _note(job, layout)
    if not job.watched or not note.is_file():
        return None
    made, now = json.loads(note.read_text(encoding="utf-8")), digest(job.watched)
    return now if made["fingerprint"] == stamp and made["digest"] != now else None


def _note(job: Job, layout: Layout) -> Path:
    return layout.record(job.name).with_suffix(".products.json")


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
    return Frozen(content["study"], file.parent, content["variables"], jobs, stamps, content["adopt"])


def _job(entry: Mapping[str, Any]) -> Job:
    own = {field.name: entry[field.name] for field in fields(Job)}
    own["command"] = Command(entry["command"]["program"], tuple(entry["command"]["arguments"]),
                             entry["command"]["variables"])  # fmt: skip
    for name in ("products", "watched"):
        own[name] = tuple(Path(text) for text in own[name])
    own["own_folder"] = Path(own["own_folder"]) if own["own_folder"] else None
    return Job(**{**own, "needs": tuple(own["needs"]), "after": tuple(own["after"])})
