"""The command `nnunet-mamba`: a module per verb, each with `add(commands)`; heavy imports wait inside."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = (
    "quickstart",
    "doctor",
    "register",
    "convert",
    "plans",
    "compare",
    "networks",
    "estimate",
    "evaluate",
    "report",
    "sweep",
    "import_checkpoint",
    "submit",
    "inspect",
    "predict",
)  # modules of this package; some offer several verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code 0: done; 1: done, and something is wrong; 2: refused, with the reason."""
    parser = argparse.ArgumentParser(prog="nnunet-mamba", description="Mamba networks for stock nnU-Net v2.")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        import_module(f"nnunet_mamba.cli.{verb}").add(commands)
    args, others = parser.parse_known_args(argv)
    if others and "others" not in args:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    args.others = others  # for a verb that passes them on
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"nnunet-mamba {args.verb}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"nnunet-mamba {args.verb}: {error}; `nnunet-mamba doctor` tells more", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"nnunet-mamba {args.verb}: interrupted", file=sys.stderr)
        return 130
