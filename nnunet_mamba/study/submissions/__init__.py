"""Predictions as the archives that challenges take: their names, values and grids, checked before upload."""

from nnunet_mamba.study.submissions.archive import CheckResult, check_archive, write_archive
from nnunet_mamba.study.submissions.cases import list_expected_files, read_notes
from nnunet_mamba.study.submissions.rules import SUBMISSIONS, ChallengeRules, get_rules, override_rules

__all__ = [
    "SUBMISSIONS",
    "ChallengeRules",
    "CheckResult",
    "check_archive",
    "get_rules",
    "list_expected_files",
    "override_rules",
    "read_notes",
    "write_archive",
]
