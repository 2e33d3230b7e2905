"""Studies as files: Markdown for people, JSON for programs, CSV for challengeR."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.study.statistics.study import Study
from nnunet_mamba.study.statistics.text import as_markdown


def write_studies(studies: Sequence[Study], out: Path) -> list[Path]:
    """Into the folder `out`, comparison.md, .json and .csv; or one of them, if `out` ends so.

    The CSV has challengeR's columns and what was ranked: a case's mean over labels.
    """
    out = Path(out)
    formats = {".md": as_markdown, ".json": as_json, ".csv": as_csv}
    if out.suffix and out.suffix not in formats and not out.is_dir():
        raise ValueError(f"{out} should be a folder, or end in {', '.join(formats)}.")
    single = out.suffix in formats and not out.is_dir()
    files = [out] if single else [out / f"comparison{ending}" for ending in formats]
    for file in files:
        write_text(file, formats[file.suffix](studies))
    return files


def as_json(studies: Iterable[Study]) -> str:
    """The fields of `Study`; null where a number is not defined."""
    return json.dumps([_plain(asdict(study)) for study in studies], indent=1, allow_nan=False) + "\n"


def as_csv(studies: Iterable[Study]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "alg_name", "case", "value"))
    for study in studies:
        for method, means in study.case_means.items():
            writer.writerows((study.dataset, method, case, value) for case, value in means.items())
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
