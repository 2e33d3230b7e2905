"""The graph of one run of a sweep, written down once: OUT/graph.json.

Snakemake, its jobs on other machines and `sweep status` read this file and nothing else: while a sweep runs,
neither the names of jobs nor their commands change with the study's file or the data.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json, write_text
from nnunet_mamba.nnunet.commands import Command
from nnunet_mamba.nnunet.console import LogFn
from nnunet_mamba.study.sweep.checksums import compute_checksum
from nnunet_mamba.study.sweep.existing_results import is_complete
from nnunet_mamba.study.sweep.job import KINDS, Job, compute_cache_key
from nnunet_mamba.study.sweep.preprocessed_data import PreprocessedData
from nnunet_mamba.study.sweep.records import FORMAT, Layout
from nnunet_mamba.study.sweep.run_job import ChangedInputError, run_job

FILE = "graph.json"


@dataclass(frozen=True)
class RunGraph:
    """Jobs of one run and their cache keys, by name; `variables` are set for all jobs."""

    study: str
    out: Path
    variables: Mapping[str, str]
    jobs: Mapping[str, Job]
    cache_keys: Mapping[str, str]
    adopt: bool = False  # as in `run_job`
    edited: tuple[str, ...] = ()  # the jobs whose products the user has changed

    @property
    def layout(self) -> Layout:
        return Layout(self.out)

    def get_job(self, name: str) -> Job:
        if name not in self.jobs:
            command = shlex.join(("nnunet-mamba", "sweep", "status", str(self.out)))
            raise ValueError(f"{self.out} has no job {name!r}; `{command}` lists them.")
        return self.jobs[name]

    def stamp(self, name: str) -> Path:
        return self.layout.stamp(name, self.cache_keys[name])

    def run(self, name: str, log: LogFn) -> None:
        """Run one job, as `run_job` does, and record the checksums of its sources and watched products."""
        job, seed = self.get_job(name), self.get_job(name).cache_inputs.get("seed")
        key = self.cache_keys[name]
        run_job(
            job,
            key,
            self.layout,
            log=log,
            study=self.study,
            seed=int(seed) if seed else None,
            adopt=self.adopt,
            extra_provenance={"dataset": compute_checksum([job.data.raw])} if job.data else {},
            check=lambda: self.check_inputs(job),
            before_record=lambda: write_json(_checksums_file(job, key, self.layout), _checksums(job)),
        )

    def check_inputs(self, job: Job) -> None:
        """Raise ChangedInputError if a watched product of a job before was changed since this run began."""
        for need in (self.jobs[name] for name in job.needs if name not in self.edited):
            if _changed_checksum(need, self.cache_keys[need.name], "watched", self.layout):
                raise ChangedInputError(f"{need.watched[0]} was changed since this run began")

    def write(self) -> Path:
        content = {
            "format": FORMAT,
            "study": self.study,
            "out": str(self.out),
            "variables": dict(self.variables),
            "adopt": self.adopt,
            "edited": self.edited,
            "jobs": [self._job_to_json(job) for job in self.jobs.values()],
        }
        write_text(self.out / FILE, json.dumps(content, indent=1, default=str) + "\n")
        return self.out / FILE

    def _job_to_json(self, job: Job) -> dict[str, Any]:
        stamp = self.stamp(job.name).relative_to(self.out)
        return {**asdict(job), "cache_key": self.cache_keys[job.name], "stamp": str(stamp)}


def build_run_graph(
    study: str, out: Path, variables: Mapping[str, str], jobs: Iterable[Job], adopt: bool
) -> RunGraph:
    """Return the graph, each job with its cache key.

    The key depends on the job's inputs, the jobs that it needs, changes of its sources, and the user's edits
    of what those jobs made.
    """
    table = {job.name: job for job in jobs}
    layout, own = Layout(out), dict[str, str]()
    effective: dict[str, str] = {}
    edited: list[str] = []
    for name, job in table.items():
        own[name] = _add_changed_sources(job, compute_cache_key(job, effective), layout)
        changed = _changed_checksum(job, own[name], "watched", layout)
        effective[name] = f"{own[name]} edited {changed}" if changed else own[name]
        edited += [name] if changed else []
    return RunGraph(study, out, variables, table, own, adopt, tuple(edited))


def _add_changed_sources(job: Job, key: str, layout: Layout) -> str:
    """Return the cache key of a job whose sources may have changed since it was done."""
    changed = _changed_checksum(job, key, "sources", layout)
    return hashlib.sha256(f"{key} {changed}".encode()).hexdigest()[:16] if changed else key


def remove_stale_stamps(graph: RunGraph) -> None:
    """Remove the stamps of jobs whose products are gone, or were made anew for another study."""
    for job in graph.jobs.values():
        if not is_complete(job, graph.cache_keys[job.name]):
            graph.stamp(job.name).unlink(missing_ok=True)


def _changed_checksum(job: Job, key: str, which: str, layout: Layout) -> str | None:
    """Return the checksum of a job's `sources` or `watched` files, if it changed since the job was done."""
    file, paths = _checksums_file(job, key, layout), getattr(job, which)
    if not paths or not file.is_file():
        return None
    then, now = json.loads(file.read_text(encoding="utf-8"))[which], compute_checksum(paths)
    return now if then != now else None


def _checksums(job: Job) -> dict[str, str]:
    return {"sources": compute_checksum(job.sources), "watched": compute_checksum(job.watched)}


def _checksums_file(job: Job, key: str, layout: Layout) -> Path:
    return layout.record(job.name).with_name(f"{job.name}.{key}.files.json")


def read_run_graph(out: Path) -> RunGraph:
    """Return the graph of the study in the folder `out`."""
    file = Path(out).absolute() / FILE
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; expected the folder of a study that `nnunet-mamba sweep` started."
        )
    content = json.loads(file.read_text(encoding="utf-8"))
    check_format(file.parent, content)
    jobs = {entry["name"]: _job_from_json(entry) for entry in content["jobs"]}
    keys = {entry["name"]: entry["cache_key"] for entry in content["jobs"]}
    flags = content["adopt"], tuple(content["edited"])
    return RunGraph(content["study"], file.parent, content["variables"], jobs, keys, *flags)


def check_format(out: Path, content: Mapping[str, Any]) -> None:
    """Raise ValueError for the graph of a folder whose files another version of this package wrote."""
    found = content.get("format", 1)
    if found != FORMAT:
        raise ValueError(
            f"{out} has the format {found} of another version of nnunet_mamba; this one has {FORMAT}. Remove "
            "it, or choose another `out`: trainings in nnUNet_results can be taken over with --adopt."
        )
    if unknown := sorted({entry["kind"] for entry in content["jobs"]} - set(KINDS)):
        raise ValueError(
            f"{out} has jobs of another version of nnunet_mamba ({', '.join(unknown)}); this one has "
            f"{', '.join(KINDS)}. Remove {FILE} there and start again: what is finished is kept."
        )


def _job_from_json(entry: Mapping[str, Any]) -> Job:
    own = {field.name: entry[field.name] for field in fields(Job)}
    command, data = own["command"], own["data"]
    own["command"] = Command(command["program"], tuple(command["arguments"]), command["variables"])
    for name in ("products", "sources", "watched"):
        own[name] = tuple(Path(text) for text in own[name])
    for name in ("own_folder", "lock"):
        own[name] = Path(own[name]) if own[name] else None
    if data:
        own["data"] = PreprocessedData(Path(data["plans"]), data["configuration"], Path(data["raw"]))
    return Job(**{**own, "needs": tuple(own["needs"]), "after": tuple(own["after"])})
