"""Writing the archive: the challenge's values on the image's own grid, the same bytes every time."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nnunet_mamba.io.atomic import atomic_write
from nnunet_mamba.io.images import read_header, read_values, write_label_map
from nnunet_mamba.study.datasets.source import Notes
from nnunet_mamba.study.submissions.cases import Expected, predictions_in, require_same_labels
from nnunet_mamba.study.submissions.check import Verdict, check_archive, problems_of_map
from nnunet_mamba.study.submissions.rules import Rules

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive knows
READABLE = 0o644 << 16


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
