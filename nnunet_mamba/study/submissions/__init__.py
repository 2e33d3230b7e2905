"""Predictions as the archives that challenges take: their names, values and grids, checked before upload."""

from nnunet_mamba.study.submissions.archive import Verdict, check_archive, pack
from nnunet_mamba.study.submissions.cases import Expected, expected_files, facts_beside
from nnunet_mamba.study.submissions.rules import SUBMISSIONS, Rules, rules_of, with_template

__all__ = [
    "SUBMISSIONS",
    "Expected",
    "Rules",
    "Verdict",
    "check_archive",
    "expected_files",
    "facts_beside",
    "pack",
    "rules_of",
    "with_template",
]
