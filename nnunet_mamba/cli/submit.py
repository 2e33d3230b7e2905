"""nnunet-mamba submit: write the archive that a challenge takes from predictions, or check one."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.study.submissions import ChallengeRules, CheckResult


def add(commands: Any) -> None:
    p = commands.add_parser(
        "submit",
        description="Gives predictions of nnUNetv2_predict the names, values and grid that a challenge asks "
        "for, and writes a zip archive that is checked before. Exit code 1: --check found something; 2: "
        "refused, nothing was written.",
        epilog="example: nnunet-mamba submit amos22_ct predictions --images imagesTs --out amos.zip",
    )
    p.add_argument("name", metavar="NAME", nargs="?", help="the challenge; --list shows them")
    p.add_argument("predictions", metavar="PRED", nargs="?", type=Path, help="folder of CASE.nii.gz")
    p.add_argument("--images", type=Path, metavar="DIR", help="imagesTs: exactly its cases are due")
    p.add_argument("--out", type=Path, metavar="FILE.zip", help="the archive to write")
    p.add_argument("--check", type=Path, metavar="FILE.zip", help="check this archive instead")
    p.add_argument("--list", action="store_true", help="show the challenges and their rules")
    p.add_argument("--pattern", metavar="P", help="file names, such as 'label{number}.nii.gz'")
    p.add_argument("--folder", metavar="F", help="folder in the archive ('' for none)")
    p.add_argument("--template", type=Path, metavar="FILE", help="JSON with case, name, folder, values")
    p.add_argument("--phases", type=Path, metavar="PATH", help="ACDC: a dataset.json or the release's folder")
    p.set_defaults(run=submit)


def submit(args: argparse.Namespace) -> int:
    from nnunet_mamba.study.submissions import check_archive, list_expected_files, read_notes, write_archive

    if args.list:
        return _print_challenges()
    _check_arguments(args)
    rules = _build_rules(args)
    notes = read_notes(args.images, args.phases)
    expected = list_expected_files(args.images, rules, notes, args.predictions)
    if notes.moved:
        print(f"left out: {len(notes.moved)} labelled cases that a split keeps for the test")
    if args.check is not None:
        return _print_result(check_archive(args.check, expected, rules), args.check, len(expected))
    result = write_archive(args.predictions, expected, rules, notes, args.out, _print_progress)
    return _print_result(result, args.out, len(expected))


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that are missing or exclude each other."""
    if args.name is None or args.images is None:
        raise ValueError("expected NAME and --images DIR, or --list.")
    if args.check is None and (args.predictions is None or args.out is None):
        raise ValueError("expected PRED and --out FILE.zip, or --check FILE.zip.")
    if args.check is not None and (args.predictions is not None or args.out is not None):
        raise ValueError("--check reads an archive; it takes neither PRED nor --out.")
    if args.out is not None and args.out.suffix != ".zip":
        raise ValueError(f"--out {args.out} should end in .zip.")


def _build_rules(args: argparse.Namespace) -> ChallengeRules:
    """Return the challenge's rules with the user's template and options."""
    from nnunet_mamba.study.submissions import get_rules, override_rules

    rules = get_rules(args.name)
    rules = override_rules(rules, args.template) if args.template else rules
    rules = rules if args.pattern is None else replace(rules, name=args.pattern)
    return rules if args.folder is None else replace(rules, folder=args.folder)


def _print_result(result: CheckResult, archive: Path, n_cases: int) -> int:
    """Print warnings and problems, and return the exit code."""
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in result.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"{n_cases} cases, {len(result.problems)} problems, {len(result.warnings)} warnings -> {archive}")
    return 1 if result.problems else 0


def _print_progress(done: int, total: int) -> None:
    if done % 20 == 0:
        print(f"  {done}/{total} cases", flush=True)


def _print_challenges() -> int:
    from nnunet_mamba.study.submissions import SUBMISSIONS

    for name, rules in SUBMISSIONS.items():
        where = f"{rules.folder}/{rules.name}" if rules.folder else rules.name
        values = ", ".join(f"{ours} -> {theirs}" for ours, theirs in rules.labels.items() if ours != theirs)
        print(f"{name:14s} {rules.title}: {where}" + (f"; labels {values}" if values else ""))
        print(f"{'':14s} from {rules.source}")
        if rules.open_points:
            print(f"{'':14s} open: {rules.open_points}")
    return 0
