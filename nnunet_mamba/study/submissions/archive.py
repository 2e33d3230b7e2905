"""Archives of a submission: written from predictions, and checked before they are sent.

Values are the challenge's, on the image's own grid; the same predictions give the same bytes.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.images import Grid, Header, read_header, read_values, write_label_map
from nnunet_mamba.study.datasets.source import Notes, some
from nnunet_mamba.study.submissions.cases import ENDINGS, Expected, predictions_in, require_same_labels
from nnunet_mamba.study.submissions.rules import Rules

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive knows
READABLE = 0o644 << 16
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


def pack(
    predictions: Path,
    expected: Sequence[Expected],
    rules: Rules,
    facts: Notes,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Write `out` if nothing is wrong, and nothing otherwise; the warnings come back.

    ValueError with every problem, each with its file. What was written is read again and checked before it
    gets its name.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it, or choose another name.")
    images = {file.image.parent.resolve().parent for file in expected}
    require_same_labels(rules, [Path(predictions), *images])
    files = predictions_in(Path(predictions), expected, facts.moved)
    with atomic_write(out) as draft:
        problems = _write(draft, expected, files, rules, progress)
        verdict = Verdict(tuple(problems)) if problems else check_archive(draft, expected, rules)
        if verdict.problems:
            raise ValueError("\n  ".join(["nothing was written:", *verdict.problems]))
    return verdict


def _write(
    draft: Path,
    expected: Sequence[Expected],
    files: dict[str, Path],
    rules: Rules,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Fill the draft; what is wrong with predictions comes back."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(draft, "w") as archive:
        for done, file in enumerate(expected, start=1):
            target = Path(scratch, Path(file.member).name)
            problems += [
                f"{files[file.case]}: {p}" for p in _translate(files[file.case], file, rules, target)
            ]
            if not problems:
                entry = zipfile.ZipInfo(file.member, EPOCH)
                entry.create_system, entry.external_attr = 3, READABLE  # the same on every system
                packed = target.name.endswith(".gz")
                entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
                archive.writestr(entry, target.read_bytes())
            target.unlink(missing_ok=True)
            if progress:
                progress(done, len(expected))
    return problems


def _translate(prediction: Path, file: Expected, rules: Rules, target: Path) -> list[str]:
    """Write the challenge's labels with the image's own header; problems, if there are any."""
    try:
        header, labels = read_header(prediction, file.reader), read_values(prediction)
    except ValueError as error:
        return [str(error)]
    problems, _ = problems_of_map(header, labels, file.grid(), rules.labels)
    if not problems:
        theirs = np.zeros(max(rules.labels) + 1, np.min_scalar_type(max(rules.labels.values())))
        theirs[list(rules.labels)] = list(rules.labels.values())
        write_label_map(theirs[labels.astype(np.intp)], file.image, target)
    return problems


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
