"""What all benchmarks write down beside their numbers, and how."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nnunet_mamba.io.atomic import write_text
from nnunet_mamba.io.cpu import read_cpu_name

PACKAGES = ("nnunet_mamba", "nnunetv2", "torch", "numba", "triton", "mamba_ssm")


def surroundings(device: str) -> dict[str, Any]:
    """The command that runs, the machine and the versions of what takes part."""
    cpu = f"{read_cpu_name()} ({os.cpu_count()} cores)"
    return {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}",
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def heading(record: dict[str, Any]) -> str:
    """The first lines of a page of Markdown: command, machine, versions."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"`{record['command']}`\n\n{record['device']}, {record['threads']} threads; {versions}."


def write(path: Path, record: dict[str, Any], page: str) -> None:
    """<path>.json and <path>.md, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", page)):
        new = path.with_suffix(f"{suffix}.new")
        new.write_text(text)
        new.replace(path.with_suffix(suffix))


def publish(record: dict[str, Any], page: str, path: Path | None) -> None:
    """Print the page, and write it with its record if there is a path for them."""
    print(page)
    if path is not None:
        write(path, record, page)
        print(f"-> {path}.json, {path}.md")


def replace_table(page: Path, name: str, table: str) -> None:
    """Replace what stands between the marks <!-- NAME --> and <!-- end --> of a page."""
    text = page.read_text()
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    assert begin in text, f"{page} has no mark {begin.strip()}"
    before, _, rest = text.partition(begin)
    write_text(page, f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}")
