"""Outcome of a quickstart, from its files: results.json, the report and the last lines on the screen."""

import ast
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.nnunet.checkpoints import FINAL
from nnunet_mamba.nnunet.console import format_duration
from nnunet_mamba.nnunet.logs import read_settings
from nnunet_mamba.study.evaluation import Origin, compute_foreground_mean, summarise
from nnunet_mamba.study.quickstart.commands import shared_variables
from nnunet_mamba.study.quickstart.workspace import PHANTOM, PLANS, Settings, Workspace
from nnunet_mamba.study.report import (
    ReportRequest,
    Stage,
    StudyReport,
    collect_study_report,
    write_study_report,
)
from nnunet_mamba.study.report.training_curves import count_parameters
from nnunet_mamba.study.statistics.output import replace_nan
from nnunet_mamba.study.statistics.tables import build_score_table


def write_outcome(settings: Settings, workspace: Workspace, dataset: str) -> list[str]:
    """Write report.html, .md and .png, and results.json; return the closing lines."""
    report = collect_study_report(build_request(settings, workspace, dataset))
    files = [*write_study_report(report, workspace.out), workspace.out / "results.json"]
    write_json(files[-1], report_to_json(report, settings))
    return format_closing_lines(report, [*files, workspace.out / "results.csv"])


def build_request(settings: Settings, workspace: Workspace, dataset: str) -> ReportRequest:
    """Return the request for a report on the cases that were kept unseen."""
    raw, fold = workspace.raw / dataset, workspace.fold(dataset, settings)
    given = {option: str(value) for option, value in settings.request().items() if value != PHANTOM}
    options = [*chain.from_iterable(given.items()), "--out", str(workspace.out)]
    return ReportRequest(
        tables=[workspace.out / "results.csv"],
        results=workspace.results / dataset,
        predictions=[workspace.predictions],
        references=raw / "labelsTs",
        origin=Origin(dataset, settings.trainer, PLANS, settings.configuration, "test"),
        command=shlex.join(["nnunet-mamba", "quickstart", *options]),
        stages=[
            Stage(name, stage["seconds"], tuple(stage["commands"]))
            for name, stage in workspace.stages().items()
        ],
        variables=[f"{name}={value}" for name, value in shared_variables(workspace).items()],
        facts=collect_facts(settings, load_restricted(fold / FINAL), read_settings(fold)),
    )


def collect_facts(
    settings: Settings, checkpoint: dict[str, Any], debug: dict[str, str]
) -> list[tuple[str, str]]:
    """Return what was trained; `debug` is nnU-Net's own record of its trainer, every value as text."""
    plan = ast.literal_eval(debug["configuration_manager"])
    steps = f"{debug['num_epochs']} × {debug['num_iterations_per_epoch']}"
    return [
        ("network parameters", f"{count_parameters(checkpoint):,}"),
        ("epochs x iterations", steps),
        ("patch (voxels)", " × ".join(map(str, plan["patch_size"]))),
        ("batch size", debug["batch_size"]),
        ("spacing (mm)", " × ".join(f"{mm:g}" for mm in plan["spacing"])),
        ("trainer", settings.trainer),
        ("configuration", settings.configuration),
        ("device", f"{debug['device']}: {debug.get('gpu_name') or processor_name()}"),
    ]


def processor_name() -> str:
    """Return the name of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def report_to_json(report: StudyReport, settings: Settings) -> dict[str, Any]:
    """Return the report's numbers for other programs; undefined ones are null."""
    content = {
        "title": report.title,
        "request": settings.request(),
        "mean_foreground_dice": compute_foreground_mean(report.scores),
        "mean_foreground_hd95_mm": compute_foreground_mean(report.scores, "hd95"),
        "summary": [asdict(row) for row in summarise(report.scores)],
        "scores": [asdict(score) for score in report.scores],
        "seconds": {stage.name: round(stage.seconds, 1) for stage in report.request.stages},
        "commands": [command for stage in report.request.stages for command in stage.commands],
        "variables": report.request.variables,
        "facts": dict(report.request.facts),
        "versions": dict(report.versions),
        "curves": asdict(report.training_runs[0].curves),
    }
    return replace_nan(content)


def format_closing_lines(report: StudyReport, files: Sequence[Path]) -> list[str]:
    """Return a short table of the scores, the parameters, the time, and the files."""
    parameters = dict(report.request.facts)["network parameters"]
    return [
        "",
        *build_score_table(report.scores).render_text().splitlines(),
        "",
        f"{parameters} parameters, {format_duration(report.seconds)} in all",
        *map(str, files),
    ]
