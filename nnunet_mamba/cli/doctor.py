"""nnunet-mamba doctor: is the set-up fit for work?"""

import argparse
import sys
from typing import Any


def add(commands: Any) -> None:
    p = commands.add_parser("doctor")
    p.add_argument(
        "--gpu",
        action="store_true",
        help="instead: whether the scan's kernels compute what they should on each GPU, and how fast",
    )
    p.set_defaults(run=doctor)


def doctor(args: argparse.Namespace) -> int:
    from nnunet_mamba.doctor import examine, examine_gpus, render

    print("checking; nnU-Net takes 10 to 20 s to load", file=sys.stderr, flush=True)
    findings = list(examine_gpus()) if args.gpu else examine()
    print(render(findings))
    return int(any(finding.remedy for finding in findings))
