"""Table of the challenges' rules, one `ChallengeRules` each. To add one, write it here, with a test.

The cases of a submission are not part of the rules: test sets changed over the years, so they are those of
the user's imagesTs. If a challenge's own words could not be found, `open_points` says so. A template can
override every field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.study.datasets.source import collect_label_values
from nnunet_mamba.study.datasets.specs import DATASETS, DatasetSpec, get_spec


@dataclass(frozen=True)
class ChallengeRules:
    """Rules for the submissions to one challenge.

    dataset  whose labels and recoding hold, in `datasets.specs.DATASETS`
    case     the whole name of a case of imagesTs, as a regular expression
    name     of a case's file in the archive, from {case}, {phase} of ACDC, and the named groups of `case`
    folder   of these files in the archive; "" for none
    values   nnU-Net's label -> the challenge's, if not as in the data set's recoding
    """

    title: str
    dataset: str
    case: str
    name: str = "{case}.nii.gz"
    folder: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    source: str = ""
    open_points: str = ""

    @property
    def spec(self) -> DatasetSpec:
        return DATASETS[self.dataset]

    @property
    def labels(self) -> Mapping[int, int]:
        """Challenge's label for each of nnU-Net's, background included."""
        return {0: 0, **self.values} if self.values else invert_recoding(self.spec)


AMOS: dict[str, Any] = {
    "case": r"amos_\d{4}",
    "folder": "results",
    "source": "amos22.grand-challenge.org, evaluation: results/amos_0008.nii.gz, the exact set of cases",
    "open_points": "Pages differ on how many cases are due today; the cases of --images count.",
}
BRATS = "the challenges' checking code: the name of the patient's folder"
SUBMISSIONS: Mapping[str, ChallengeRules] = {
    "amos22_ct": ChallengeRules("AMOS22, task 1: CT", "amos22_ct", **AMOS),
    "amos22_ct_mr": ChallengeRules("AMOS22, task 2: CT and MR", "amos22_ct_mr", **AMOS),
    "synapse": ChallengeRules(
        "Synapse / BTCV, 13 organs",
        "synapse",
        case=r"(?:img|label)?(?P<number>\d{4})",
        name="label{number}.nii.gz",
        source="the names of the released labels",
        open_points="No public text states the form of a submission; override what the page asks for.",
    ),
    "acdc": ChallengeRules(
        "ACDC",
        "acdc",
        case=r"(?P<patient>patient\d{3})_frame\d{2}",
        name="{patient}_{phase}.nii.gz",
        source="patient101_ED.nii.gz, patient101_ES.nii.gz in comments of public code",
        open_points="The challenge's own words were not found.",
    ),
    "brats21": ChallengeRules("BraTS 2021", "brats21", case=r"BraTS2021_\d{5}", source=BRATS),
    "brats23": ChallengeRules("BraTS 2023 GLI", "brats23", case=r"BraTS-GLI-\d{5}-\d{3}", source=BRATS),
}
OVERRIDABLE = ("case", "name", "folder", "values")


def get_rules(name: str) -> ChallengeRules:
    """Return the rules by the name of the data set or an alias of it. ValueError for others."""
    try:
        known, _ = get_spec(name)
    except ValueError:
        known = name
    if known not in SUBMISSIONS:
        raise ValueError(format_unknown_name("submission", known, SUBMISSIONS, "nnunet-mamba submit --list"))
    return SUBMISSIONS[known]


def invert_recoding(spec: DatasetSpec) -> dict[int, int]:
    """Return the release's label for each of nnU-Net's: the inverse of the recoding."""
    back = {ours: theirs for theirs, ours in spec.pixels.recode.items()}
    assert len(back) == len(spec.pixels.recode), f"{spec.title} joins labels; they cannot be told apart again"
    if back:
        return back
    return {value: value for value in sorted(collect_label_values(spec.labels or {}))}


def override_rules(rules: ChallengeRules, file: Path) -> ChallengeRules:
    """Return the rules with the entries of a JSON file: an object with some of case, name, folder, values."""
    try:
        changes = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}).") from error
    if not isinstance(changes, dict) or set(changes) - set(OVERRIDABLE):
        raise ValueError(f"{file} should be an object with some of the keys {', '.join(OVERRIDABLE)}.")
    for key in ("case", "name", "folder"):
        if not isinstance(changes.get(key, ""), str):
            raise ValueError(f"{file}: {key} should be a text, got {changes[key]!r}.")
    if "values" in changes:
        try:
            changes["values"] = {int(ours): int(theirs) for ours, theirs in changes["values"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{file}: values should map labels to labels, as in {{"1": 4, "2": 2}}; got '
                f"{changes['values']!r}."
            ) from error
        if any(not 0 <= theirs <= 65535 for theirs in changes["values"].values()):
            raise ValueError(f"{file}: values should be 0 to 65535, got {changes['values']}.")
    if "case" in changes:
        try:
            re.compile(changes["case"])
        except (re.error, TypeError) as error:
            raise ValueError(f"{file}: case is not a regular expression ({error}).") from error
    return replace(rules, **changes)
