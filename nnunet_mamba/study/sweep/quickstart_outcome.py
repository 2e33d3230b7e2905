"""Outcome of a quickstart, from its files: results.json, the report and the last lines on the screen."""

import ast
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.io.cpu import read_cpu_name
from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.nnunet.console import format_duration
from nnunet_mamba.nnunet.logs import read_settings
from nnunet_mamba.study.evaluation import Origin, compute_foreground_mean, summarise
from nnunet_mamba.study.report import (
    ReportRequest,
    Stage,
    StudyReport,
    collect_study_report,
    write_study_report,
)
from nnunet_mamba.study.report.training_curves import count_parameters
from nnunet_mamba.study.statistics.output import replace_nan
from nnunet_mamba.study.statistics.result_tables import build_score_table
from nnunet_mamba.study.sweep.quickstart import DATA, Settings
from nnunet_mamba.study.sweep.run_graph import RunGraph
from nnunet_mamba.study.sweep.study import STOCK_PLANS


def write_outcome(settings: Settings, graph: RunGraph, dataset: str) -> list[str]:
    """Write report.html, .md and .png, and results.json; return the closing lines."""
    report = collect_study_report(build_request(settings, graph, dataset))
    files = [*write_study_report(report, graph.out), graph.out / "results.json"]
    write_json(files[-1], report_to_json(report, settings))
    return format_closing_lines(report, [*files, graph.out / "results.csv"])


def build_request(settings: Settings, graph: RunGraph, dataset: str) -> ReportRequest:
    """Return the request for a report on the cases that were kept unseen."""
    out, checkpoint = graph.out, graph.jobs["train"].products[0]
    data = [] if settings.data is None else ["--data", str(settings.data)]
    options = [*data, "--trainer", settings.trainer, "--configuration", settings.configuration]
    options += ["--cases", str(settings.n_unseen), "--seed", str(settings.seed), "--out", str(out)]
    commands = {name: (str(job.command),) for name, job in graph.jobs.items()}
    records = (graph.layout.read_record(name) for name in (DATA, *graph.jobs))
    return ReportRequest(
        tables=[out / "results.csv"],
        results=out / "nnUNet_results" / dataset,
        predictions=[graph.jobs["predict"].products[-1]],
        references=out / "nnUNet_raw" / dataset / "labelsTs",
        origin=Origin(dataset, settings.trainer, STOCK_PLANS, settings.configuration, "test"),
        command=shlex.join(["nnunet-mamba", "quickstart", *options]),
        stages=[
            Stage(record.job, record.seconds, commands.get(record.job, ())) for record in records if record
        ],
        variables=[f"{name}={value}" for name, value in graph.variables.items()],
        facts=collect_facts(settings, load_restricted(checkpoint), read_settings(checkpoint.parent)),
    )


def collect_facts(
    settings: Settings, checkpoint: dict[str, Any], debug: dict[str, str]
) -> list[tuple[str, str]]:
    """Return what was trained; `debug` is nnU-Net's own record of its trainer, every value as text, of which
    nothing is told that is lost."""
    plan = ast.literal_eval(debug.get("configuration_manager", "{}"))
    steps = [debug[name] for name in ("num_epochs", "num_iterations_per_epoch") if name in debug]
    processor = debug.get("gpu_name") or f"{read_cpu_name()}, {os.cpu_count()} cores"
    facts = [
        ("network parameters", f"{count_parameters(checkpoint):,}"),
        ("epochs x iterations", " × ".join(steps)),
        ("patch (voxels)", " × ".join(map(str, plan.get("patch_size", ())))),
        ("batch size", debug.get("batch_size", "")),
        ("spacing (mm)", " × ".join(f"{mm:g}" for mm in plan.get("spacing", ()))),
        ("trainer", settings.trainer),
        ("configuration", settings.configuration),
        ("device", f"{debug['device']}: {processor}" if "device" in debug else ""),
    ]
    return [(name, text) for name, text in facts if text]


def report_to_json(report: StudyReport, settings: Settings) -> dict[str, Any]:
    """Return the report's numbers for other programs; undefined ones are null."""
    content = {
        "title": report.title,
        "request": settings.options(),
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
