"""What the trainers of a study are, asked of nnU-Net in a process of its own: importing it takes seconds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import nnunet_mamba
from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.nnunet.catalogue import NOT_FOUND, no_trainer
from nnunet_mamba.nnunet.commands import EXTERNAL


def describe_trainers(names: Iterable[str], folders: str, cache: Path) -> dict[str, str]:
    """A text per trainer that changes when the training does.

    `folders` is the value of nnUNet_extTrainer. The answer is kept in the file `cache` for as long as no
    source file changes. ValueError for trainers that nnU-Net does not find or that cannot be imported.
    """
    names, state = sorted(set(names)), _state(folders)
    known = _cached(cache, state)
    if not set(names) <= set(known):
        known = _asked(names, folders)
        write_json(cache, {"state": state, "trainers": known})
    faults = [f"{name}: {_fault(name, known[name]['error'])}" for name in names if "error" in known[name]]
    if faults:
        raise ValueError("nnU-Net cannot use these trainers:\n  " + "\n  ".join(faults))
    return {name: json.dumps(known[name], sort_keys=True) for name in names}


def _fault(name: str, error: object) -> str:
    """What nnU-Net met; for a name that it does not find, what may be meant."""
    return f"nnU-Net does not find it. {no_trainer(name)}" if NOT_FOUND in str(error) else str(error)


def _asked(names: Sequence[str], folders: str) -> dict[str, dict[str, object]]:
    argv = [sys.executable, "-m", "nnunet_mamba.trainers.describe", *names]
    environment = {**os.environ, EXTERNAL: folders}
    asked = subprocess.run(argv, env=environment, capture_output=True, text=True)
    if asked.returncode != 0 or not asked.stdout.strip():
        tail = (asked.stderr.strip() or "no output").splitlines()[-1]
        raise ValueError(f"nnU-Net could not be asked for its trainers: {tail}")
    answer: dict[str, dict[str, object]] = json.loads(asked.stdout.strip().splitlines()[-1])
    return answer


def _cached(cache: Path, state: str) -> Mapping[str, Mapping[str, object]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    trainers: dict[str, dict[str, object]] = content["trainers"] if content["state"] == state else {}
    return {name: found for name, found in trainers.items() if "error" not in found}


def _state(folders: str) -> str:
    """Of all source files in which a trainer may be described: their names, sizes and times."""
    places = [Path(nnunet_mamba.__path__[0]), *(Path(text) for text in folders.split(os.pathsep) if text)]
    files = sorted(file for place in places for file in place.rglob("*") if file.suffix in (".py", ".json"))
    lines = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join([version("nnunetv2"), *lines]).encode()).hexdigest()
