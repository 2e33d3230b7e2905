"""Command `nnunet-mamba`: a module per verb, each with `add(commands)`; heavy imports are inside
functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from nnunet_mamba import __version__
from nnunet_mamba.io.cpu import wait_passively
from nnunet_mamba.io.messages import format_unknown_name

VERBS = {  # verb -> the module of this package that adds it, and what it does
    "quickstart": ("quickstart", "plan, train, predict and score in one go, with nnU-Net's own commands"),
    "doctor": ("doctor", "check the set-up: versions, backends, folders, trainers, device"),
    "register": ("register", "let the installed nnU-Net find our trainers, in every shell"),
    "unregister": ("register", "undo `register` without a trace"),
    "trainers-path": ("register", "print the folder for the variable nnUNet_extTrainer"),
    "trainers": ("trainers", "list the trainers: network, paper, dimensions, recipe, lengths, twin"),
    "networks": ("networks", "list the networks; with --plans, their parameter counts on that plan"),
    "convert": ("convert", "make an nnU-Net dataset of a downloaded one, checked and split"),
    "plans": ("plans", "split, apply a paper's template, check, plan for a card"),
    "estimate": ("estimate", "predict peak memory of a training step on a plan"),
    "predict": ("predict", "nnUNetv2_predict for every nnU-Net model, without its slow export"),
    "validate": ("validate", "predict the cases of trained folds again: mixers or flips off, noise, ..."),
    "evaluate": ("evaluate", "score predicted label maps, or nnU-Net's results of a dataset"),
    "compare": ("compare", "test methods against their twins without SSM and a baseline"),
    "report": ("report", "one page about a study: results, tests, curves, worst cases"),
    "sweep": ("sweep", "train, score, compare and report a whole study: folds x trainers x data sets"),
    "submit": ("submit", "pack predictions for a challenge, or check such an archive"),
    "inspect": ("inspect", "show what a trained network's scans, features and gradients do on an image"),
    "export-model": ("export_model", "write a trained model to share: weights, plans and a card, no code"),
    "import-model": ("import_model", "turn such an export, from a folder or the hub, into a trained model"),
    "export-onnx": ("export_onnx", "write a trained model as ONNX, with its pre- and postprocessing"),
    "import-checkpoint": ("import_checkpoint", "turn other repositories' weights into ones for our trainers"),
}


class Parser(argparse.ArgumentParser):
    """ArgumentParser that suggests what an unknown word was meant to be.

    `verbs` are parsers for what may also come in the place of a first positional argument that is a file.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.verbs: dict[str, Parser] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        verb = next((word for word in words if not word.startswith("-")), "")
        if verb not in self.verbs:
            return super().parse_known_args(words, namespace)
        words.remove(verb)
        return self.verbs[verb].parse_known_args(words, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "choice" if action.option_strings else (action.metavar or action.dest)
            message = format_unknown_name(str(kind).lower(), str(value), map(str, action.choices))
            raise argparse.ArgumentError(action if action.option_strings else None, message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code 0: done; 1: done, and something is wrong; 2: refused, with the reason."""
    wait_passively()
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that has no minus sign shows its code
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    parser, chosen = _parsers(words[0] if words else "")
    if not words:
        parser.print_help()
        return 0
    args, others = parser.parse_known_args(words)
    if others:
        chosen.error(f"unrecognized arguments: {' '.join(others)}")
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


def _parsers(verb: str) -> tuple[Parser, Parser]:
    """Return the main parser and the parser of `verb` (the main one again for an unknown verb).

    Only the module of `verb` is imported; without one the parser has the names of all verbs.
    """
    parser = Parser(
        prog="nnunet-mamba",
        description="Mamba networks for stock nnU-Net v2.",
        epilog="`nnunet-mamba VERB --help` tells more about one.",
    )
    parser.add_argument("--version", action="version", version=f"nnunet-mamba {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    if verb in VERBS:
        module, text = VERBS[verb]
        import_module(f"nnunet_mamba.cli.{module}").add(commands)
        chosen = commands.choices[verb]
        chosen.description = chosen.description or f"{text[0].upper()}{text[1:]}."
        return parser, chosen
    for name, (_, text) in VERBS.items():
        commands.add_parser(name, help=text)
    return parser, parser


def check_files(files: Sequence[Path], what: str) -> None:
    """Raise ValueError unless each file exists; `what` names the expected kind."""
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; expected {what}."
            )


def show_help(parser: argparse.ArgumentParser) -> Any:
    """Return the `run` of a group of verbs that is called without one."""

    def run(args: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    return run
