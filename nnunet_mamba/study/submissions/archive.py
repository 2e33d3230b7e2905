"""Archives of a submission: written from predictions, and checked before they are sent.

Values are the challenge's, on the image's own grid; the same predictions give the same bytes.
"""

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

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.images import Grid, Header, read_header, read_values, write_label_map
from nnunet_mamba.io.messages import join_names
from nnunet_mamba.study.datasets.source import CaseProgressFn, Notes
from nnunet_mamba.study.submissions.cases import ENDINGS, ExpectedFile, check_same_labels, find_predictions
from nnunet_mamba.study.submissions.rules import ChallengeRules

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
class CheckResult:
    """Result of a check.

    problems  for which the challenge would refuse the archive, or score it wrongly
    warnings  that may be right, and mostly are not
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_archive(
    predictions: Path,
    expected: Sequence[ExpectedFile],
    rules: ChallengeRules,
    notes: Notes,
    out: Path,
    progress: CaseProgressFn | None = None,
) -> CheckResult:
    """Write `out` from predictions and return the warnings; if there is a problem, nothing is written.

    ValueError with every problem, each with its file. The archive is read again and checked before it gets
    its name.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it, or choose another name.")
    images = {file.image.parent.resolve().parent for file in expected}
    check_same_labels(rules, [Path(predictions), *images])
    files = find_predictions(Path(predictions), expected, notes.moved)
    with atomic_write(out) as draft:
        problems = _write_members(draft, expected, files, rules, progress)
        result = CheckResult(tuple(problems)) if problems else check_archive(draft, expected, rules)
        if result.problems:
            raise ValueError("\n  ".join(["nothing was written:", *result.problems]))
    return result


def _write_members(
    draft: Path,
    expected: Sequence[ExpectedFile],
    files: dict[str, Path],
    rules: ChallengeRules,
    progress: CaseProgressFn | None,
) -> list[str]:
    """Write the members of the draft, and return problems of the predictions."""
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(draft, "w") as archive:
        for done, file in enumerate(expected, start=1):
            target = Path(folder, Path(file.member).name)
            prediction = files[file.case]
            found = _write_challenge_labels(prediction, file, rules, target)
            problems += [f"{prediction}: {problem}" for problem in found]
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


def _write_challenge_labels(
    prediction: Path, file: ExpectedFile, rules: ChallengeRules, target: Path
) -> list[str]:
    """Write the challenge's labels with the image's own header, or return the prediction's problems."""
    try:
        header, labels = read_header(prediction, file.reader), read_values(prediction)
    except ValueError as error:
        return [str(error)]
    problems, _ = find_map_problems(header, labels, file.read_grid(), rules.labels)
    if not problems:
        theirs = np.zeros(max(rules.labels) + 1, np.min_scalar_type(max(rules.labels.values())))
        theirs[list(rules.labels)] = list(rules.labels.values())
        write_label_map(theirs[labels.astype(np.intp)], file.image, target)
    return problems


def check_archive(archive: Path, expected: Sequence[ExpectedFile], rules: ChallengeRules) -> CheckResult:
    """Check the names of an archive's files, and every label map that has a right name."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = [entry.filename for entry in content.infolist() if not entry.is_dir()]
            problems = find_name_problems(names, expected)
            present = [file for file in expected if file.member in names]
            results = [_check_member(content, file, rules) for file in present]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is not a complete zip archive ({error}); write it again.") from error
    problems += [problem for result, _ in results for problem in result.problems]
    warnings = [warning for result, _ in results for warning in result.warnings]
    found = set().union(*(values for _, values in results))
    return CheckResult(tuple(problems), (*warnings, *find_absent_labels(rules, found)))


def find_name_problems(names: Collection[str], expected: Iterable[ExpectedFile]) -> list[str]:
    """Return problems of the files' names: missing, elsewhere, twice, or too many."""
    expected_names = {file.member for file in expected}
    counts = Counter(names)
    missing, extra = sorted(expected_names - set(counts)), sorted(set(counts) - expected_names)
    problems = [f"{name} is {n} times in the archive" for name, n in counts.items() if n > 1]
    elsewhere = {PurePosixPath(name).name: name for name in extra}
    for name in list(missing):
        other = elsewhere.get(PurePosixPath(name).name)
        if other:
            problems.append(f"{other} is in the wrong folder; expected {name}")
            missing.remove(name)
            extra.remove(other)
    if missing:
        problems.append(f"{len(missing)} cases are missing: {join_names(sorted(missing))}")
    if extra:
        problems.append(f"{len(extra)} files do not belong there: {join_names(sorted(extra))}")
    return problems


def find_map_problems(
    header: Header, labels: np.ndarray, grid: Grid, allowed: Collection[int]
) -> tuple[list[str], set[int]]:
    """Return problems of a label map, and the values in it (none if they could not be read)."""
    if header.n_components > 1:
        return ["several values per voxel; expected labels, not probabilities"], set()
    if labels.ndim != len(grid.size):
        return [f"{labels.ndim}D, but its image is {len(grid.size)}D"], set()
    problems = []
    if difference := header.grid.difference(grid):
        problems.append(f"not on the grid of its image, {difference}")
    found = {value for part in labels for value in np.unique(part).tolist()}
    if broken := sorted(value for value in found if not float(value).is_integer()):
        return [*problems, f"values that are not labels, such as {broken[0]:g}"], set()
    values = {int(value) for value in found}
    if unknown := sorted(values - set(allowed)):
        first = ", ".join(map(str, unknown[:5]))
        problems.append(f"unknown labels {first}; expected {', '.join(map(str, sorted(allowed)))}")
    return problems, values


def find_absent_labels(rules: ChallengeRules, found: Collection[int]) -> list[str]:
    """Return a warning about labels that occur in no case, if there are any."""
    absent = sorted(set(rules.labels.values()) - set(found))
    return [f"no case holds the labels {', '.join(map(str, absent))}"] if absent and found else []


def _check_member(
    content: zipfile.ZipFile, file: ExpectedFile, rules: ChallengeRules
) -> tuple[CheckResult, set[int]]:
    """Check one label map, and return its values, too."""
    with tempfile.TemporaryDirectory() as folder:
        ending = next(ending for ending in ENDINGS if file.member.endswith(ending))
        copy = Path(folder, f"labels{ending}")
        try:
            with content.open(file.member) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            header, labels = read_header(copy, file.reader), read_values(copy)
        except (*DAMAGED, ValueError) as error:
            reason = str(error).replace(str(copy), PurePosixPath(file.member).name)
            return CheckResult((f"{file.member}: {reason}",)), set()
        problems, values = find_map_problems(header, labels, file.read_grid(), rules.labels.values())
        if header.is_float:
            problems.append(f"labels stored as {labels.dtype}; expected whole numbers")
    warnings = [f"{file.member}: background only"] if values == {0} else []
    return CheckResult(tuple(f"{file.member}: {problem}" for problem in problems), tuple(warnings)), values
