"""Outcome of a quickstart, from its files: results.json, the report and the last lines on the screen."""

import ast
import json
import math
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.nnunet.console import format_duration
from nnunet_mamba.nnunet.logs import read_settings
from nnunet_mamba.nnunet.version import get_installed_version
from nnunet_mamba.study.evaluation import (
    Summary,
    compute_foreground_mean,
    read_table,
    select_scored_labels,
    summarise,
)
from nnunet_mamba.study.report import (
    CaseFiles,
    QuickstartReport,
    Stage,
    read_curves,
    write_quickstart_figure,
    write_quickstart_page,
)
from nnunet_mamba.study.report.training_curves import count_parameters, load_checkpoint
from nnunet_mamba.study.sweep.quickstart import Settings
from nnunet_mamba.study.sweep.run_graph import RunGraph

PACKAGES = ("nnunet_mamba", "nnunetv2", "torch", "numba", "monai", "numpy")


def write_outcome(settings: Settings, graph: RunGraph, dataset: str) -> list[str]:
    """Write report.html, report.png and results.json; return the closing lines."""
    report = collect_report(settings, graph, dataset)
    write_quickstart_figure(report, graph.out / "report.png")
    write_quickstart_page(report, graph.out / "report.html")
    write_json(graph.out / "results.json", report_to_json(report, settings))
    return format_closing_lines(report, graph.out)


def collect_report(settings: Settings, graph: RunGraph, dataset: str) -> QuickstartReport:
    """Return the content of the report, from the files."""
    raw = graph.out / "nnUNet_raw" / dataset
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    final, predictions = graph.jobs["train"].products[0], graph.jobs["predict"].products[0]
    checkpoint = load_checkpoint(final)
    curves = read_curves(checkpoint)
    return QuickstartReport(
        title=f"{settings.trainer} on {dataset}",
        labels=select_scored_labels(description)[0],
        scores=read_table(graph.out / "results.csv"),
        cases=list_cases(raw, predictions, description["file_ending"]),
        curves=curves,
        facts=collect_facts(settings, checkpoint, read_settings(final.parent)),
        stages=[
            Stage(record.job, record.seconds, (record.command,) if record.command else ())
            for record in map(graph.layout.read_record, graph.jobs)
            if record
        ],
        variables=[f"{name}={value}" for name, value in graph.variables.items()],
        versions=collect_versions(),
    )


def list_cases(raw: Path, predictions: Path, ending: str) -> list[CaseFiles]:
    """Return the files of the unseen cases, by name."""
    names = sorted(file.name.removesuffix(ending) for file in (raw / "labelsTs").iterdir())
    return [
        CaseFiles(
            name,
            raw / "imagesTs" / f"{name}_0000{ending}",
            raw / "labelsTs" / f"{name}{ending}",
            predictions / f"{name}{ending}",
        )
        for name in names
    ]


def collect_facts(
    settings: Settings, checkpoint: dict[str, Any], debug: dict[str, str]
) -> list[tuple[str, str]]:
    """Return what was trained; `debug` is nnU-Net's own record of its trainer, every value as text."""
    plan = ast.literal_eval(debug["configuration_manager"])
    steps = f"{debug['num_epochs']} × {debug['num_iterations_per_epoch']}"
    return [
        ("network parameters", f"{count_parameters(checkpoint):,}"),
        ("epochs x iterations", steps),
        ("patch (voxels)", "×".join(map(str, plan["patch_size"]))),
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


def collect_versions() -> list[tuple[str, str]]:
    packages = ((name, get_installed_version(name) or "not installed as a package") for name in PACKAGES)
    return [("python", platform.python_version()), ("system", platform.platform(terse=True)), *packages]


def report_to_json(report: QuickstartReport, settings: Settings) -> dict[str, Any]:
    """Return the report's numbers for other programs; undefined ones are null."""
    return {
        "title": report.title,
        "request": settings.request(),
        "mean_foreground_dice": nan_to_none(compute_foreground_mean(report.scores)),
        "mean_foreground_hd95_mm": nan_to_none(compute_foreground_mean(report.scores, "hd95")),
        "summary": [without_nan(asdict(row)) for row in summarise(report.scores)],
        "scores": [without_nan(asdict(score)) for score in report.scores],
        "seconds": {stage.name: round(stage.seconds, 1) for stage in report.stages},
        "commands": [command for stage in report.stages for command in stage.commands],
        "variables": list(report.variables),
        "facts": dict(report.facts),
        "versions": dict(report.versions),
        "curves": asdict(report.curves),
    }


def without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: nan_to_none(value) if isinstance(value, float) else value for name, value in row.items()}


def nan_to_none(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def format_closing_lines(report: QuickstartReport, out: Path) -> list[str]:
    """Return a short table of the scores, the parameters, the time, and the files."""
    rows: dict[str, dict[str, Summary]] = {}
    for row in summarise(report.scores):
        rows.setdefault(row.label_name, {})[row.metric] = row
    lines = ["", f"{'label':<24}{'Dice':>16}{'HD95 (mm)':>18}{'cases':>8}"]
    for name, cell in rows.items():
        texts = (format_mean_and_sd(cell["dice"], 3), format_mean_and_sd(cell["hd95"], 2))
        lines.append(f"{name[:23]:<24}{texts[0]:>16}{texts[1]:>18}{cell['dice'].n_cases:>8}")
    means = (compute_foreground_mean(report.scores), compute_foreground_mean(report.scores, "hd95"))
    lines.append(f"{'mean':<24}{means[0]:>16.3f}{means[1]:>18.2f}")
    seconds = sum(stage.seconds for stage in report.stages)
    lines += ["", f"{dict(report.facts)['network parameters']} parameters, {format_duration(seconds)} in all"]
    return [
        *lines,
        *(str(out / name) for name in ("report.html", "report.png", "results.csv", "results.json")),
    ]


def format_mean_and_sd(row: Summary, digits: int) -> str:
    return f"{row.mean:.{digits}f}" + ("" if math.isnan(row.sd) else f" ± {row.sd:.{digits}f}")
