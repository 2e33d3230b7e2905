"""nnunet-mamba trainers: names that follow `-tr` in nnU-Net's commands, and what they train."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.nnunet.catalogue import TrainerInfo

FEW = 3  # trainers that are described at length
LEGEND = """\
twin: ...NoSSM, the same without state space model; demo: ..._demo, a small one for CPUs
all: ..._1epoch, ..._5epochs and nnU-Net's other lengths; ..._smoke, which tests a dataset in a minute
`nnunet-mamba trainers NAME` tells all about one."""


def add(commands: Any) -> None:
    p = commands.add_parser(
        "trainers",
        description="Lists the trainers; with WORD those whose name, network or paper has it, else those "
        "whose recipe has it; of a few all about each.",
        epilog="example: nnunet-mamba trainers umamba",
    )
    p.add_argument("word", metavar="WORD", nargs="?", default="", help="such as umamba, 2410.15496 or AdamW")
    p.set_defaults(run=trainers)


def trainers(args: argparse.Namespace) -> int:
    from nnunet_mamba.nnunet.catalogue import NETWORKS, PREFIX, TRAINERS, format_unknown_trainer

    exact = [row for row in TRAINERS if args.word in row.names()]
    named = {row: (row.name, row.network, *network_words(NETWORKS[row.network])) for row in TRAINERS}
    found = (
        exact
        or [row for row, words in named.items() if has_word(words, args.word)]
        or [row for row in TRAINERS if PREFIX + args.word in row.names()]
        or [row for row in TRAINERS if has_word([row.recipe], args.word)]
    )
    if not found:
        raise ValueError(format_unknown_trainer(args.word))
    if len(found) <= FEW:
        print("\n\n".join(_described(row) for row in found))
        return 0
    rows = [_row(row) for row in found]
    print_table(("trainer", "network", "paper", "axes", "twin", "demo", "recipe"), rows)
    print(f"\n{LEGEND}")
    return 0


def network_words(network: Any) -> tuple[str, ...]:
    return network.title, network.paper, dimensions_text(network.ndims)


def dimensions_text(axes: Sequence[int]) -> str:
    """Return the dimensions as text: (2, 3) -> '2D 3D'"""
    return " ".join(f"{n}D" for n in axes)


def has_word(texts: Iterable[str], word: str) -> bool:
    """Return whether a text has the word, whatever their case, hyphens and underscores."""
    return not word or (_plain(word) != "" and any(_plain(word) in _plain(text) for text in texts))


def _plain(text: str) -> str:
    return "".join(char for char in text.lower() if char not in "-_ ")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text in columns as wide as their longest."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(f"{cell:{width}s}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(trainer: TrainerInfo) -> tuple[str, ...]:
    from nnunet_mamba.nnunet.catalogue import NETWORKS

    network = NETWORKS[trainer.network]
    twin, demo = (("yes" if there else "-") for there in (network.has_ssm, trainer.has_demo))
    return (
        trainer.name,
        network.title,
        network.paper,
        dimensions_text(network.ndims),
        twin,
        demo,
        trainer.recipe,
    )


def _described(trainer: TrainerInfo) -> str:
    from nnunet_mamba.nnunet.catalogue import DEMO, LENGTHS, NETWORKS, NO_DECAY, SMOKE

    name, network = trainer.name, NETWORKS[trainer.network]
    configuration = "3d_fullres" if 3 in network.ndims else "2d"
    lines = {
        "network": f"{network.title} ({trainer.network}), {dimensions_text(network.ndims)}; {network.paper}",
        "recipe": trainer.recipe,
        "twin": f"{trainer.twin_name()}, the same without state space model" if network.has_ssm else "",
        "no decay": f"{name}{NO_DECAY}, without weight decay on the SSM" if trainer.has_no_decay else "",
        "lengths": " ".join(LENGTHS),
        "test": f"{name}{SMOKE}: a minute, to see whether your dataset passes the whole chain",
        "demo": f"{name}{DEMO}: a small one, for CPUs" if trainer.has_demo else "",
        "train": f"nnUNetv2_train DATASET {configuration} 0 -tr {name}",
    }
    return "\n".join([name, *(f"    {title:9s} {text}" for title, text in lines.items() if text)])
