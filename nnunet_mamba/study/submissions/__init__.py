"""Predictions as the archives that challenges take: their names, values and grids, checked before upload."""

from nnunet_mamba.study.submissions.archive import CheckResult, check_archive, write_archive
from nnunet_mamba.study.submissions.cases import list_expected_files, read_notes
from nnunet_mamba.study.submissions.rules import SUBMISSIONS, ChallengeRules, apply_template, get_rules

__all__ = [
    "SUBMISSIONS",
    "ChallengeRules",
    "CheckResult",
    "apply_template",
    "check_archive",
    "get_rules",
    "list_expected_files",
    "read_notes",
    "write_archive",
]
