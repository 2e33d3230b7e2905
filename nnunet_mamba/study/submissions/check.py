"""Whether an archive is what the challenge takes; all that is wrong with it, in words, before it is sent."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nnunet_mamba.io.images import Grid, Header, read_header, read_values
from nnunet_mamba.study.datasets.source import some
from nnunet_mamba.study.submissions.cases import ENDINGS, Expected
from nnunet_mamba.study.submissions.rules import Rules

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    EOFError,
)  # RuntimeError: password


@dataclass(frozen=True)
class Verdict:
    """problems  for which the challenge would refuse, or score wrongly
    warnings  that may be right, and mostly are not
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_archive(archive: Path, expected: Sequence[Expected], rules: Rules) -> Verdict:
    """Names first, then every label map that has a right name."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = [entry.filename for entry in content.infolist() if not entry.is_dir()]
            problems = problems_of_names(names, expected)
            there = [file for file in expected if file.member in names]
            verdicts = [_check_member(content, file, rules) for file in there]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no whole zip archive ({error}); write it again.") from error
    problems += [problem for verdict, _ in verdicts for problem in verdict.problems]
    warnings = [warning for verdict, _ in verdicts for warning in verdict.warnings]
    found = set().union(*(values for _, values in verdicts))
    return Verdict(tuple(problems), (*warnings, *never_found(rules, found)))


def problems_of_names(names: Collection[str], expected: Iterable[Expected]) -> list[str]:
    """Of the archive's files: missing, elsewhere, twice, or too many."""
    due = {file.member for file in expected}
    counts = Counter(names)
    missing, extra = sorted(due - set(counts)), sorted(set(counts) - due)
    problems = [f"{name} is {n} times in the archive" for name, n in counts.items() if n > 1]
    elsewhere = {PurePosixPath(name).name: name for name in extra}
    for name in list(missing):
        other = elsewhere.get(PurePosixPath(name).name)
        if other:
            problems.append(f"{other} is in the wrong folder; expected {name}")
            missing.remove(name)
            extra.remove(other)
    if missing:
        problems.append(f"{len(missing)} cases are missing: {some(missing)}")
    if extra:
        problems.append(f"{len(extra)} files do not belong there: {some(extra)}")
    return problems


def problems_of_map(
    header: Header, labels: np.ndarray, grid: Grid, allowed: Collection[int]
) -> tuple[list[str], set[int]]:
    """What is wrong with a label map, and the values in it (none where they could not be looked at)."""
    if header.n_components > 1:
        return ["several values per voxel; expected labels, not probabilities"], set()
    if labels.ndim != len(grid.size):
        return [f"{labels.ndim}D, but its image is {len(grid.size)}D"], set()
    problems = []
    if difference := header.grid.difference(grid):
        problems.append(f"not on the grid of its image, {difference}")
    found = {value for part in labels for value in np.unique(part).tolist()}
    if broken := sorted(value for value in found if not float(value).is_integer()):
        return [*problems, f"values that are no labels, such as {broken[0]:g}"], set()
    values = {int(value) for value in found}
    if unknown := sorted(values - set(allowed)):
        shown = ", ".join(map(str, unknown[:5]))
        problems.append(f"unknown labels {shown}; expected {', '.join(map(str, sorted(allowed)))}")
    return problems, values


def never_found(rules: Rules, found: Collection[int]) -> list[str]:
    """A warning of labels that occur in no case."""
    absent = sorted(set(rules.labels.values()) - set(found))
    return [f"no case holds the labels {', '.join(map(str, absent))}"] if absent and found else []


def _check_member(content: zipfile.ZipFile, file: Expected, rules: Rules) -> tuple[Verdict, set[int]]:
    with tempfile.TemporaryDirectory() as folder:
        ending = next(ending for ending in ENDINGS if file.member.endswith(ending))
        copy = Path(folder, f"labels{ending}")
        try:
            with content.open(file.member) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            header, labels = read_header(copy, file.reader), read_values(copy)
        except (*DAMAGED, ValueError) as error:
            reason = str(error).replace(str(copy), PurePosixPath(file.member).name)
            return Verdict((f"{file.member}: {reason}",)), set()
        problems, values = problems_of_map(header, labels, file.grid(), rules.labels.values())
        if header.is_float:
            problems.append(f"labels stored as {labels.dtype}; expected whole numbers")
    warnings = [f"{file.member}: background only"] if values == {0} else []
    return Verdict(tuple(f"{file.member}: {problem}" for problem in problems), tuple(warnings)), values
