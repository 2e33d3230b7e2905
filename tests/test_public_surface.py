"""The public surface: everything that users, plans files, checkpoints and study files name.

What is public is what `public_surface.json` holds. After a change on purpose write it anew, read its diff,
and say in CHANGELOG.md what changed: python tests/test_public_surface.py
"""

import argparse
import hashlib
import inspect
import json
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import nnunet_mamba
from nnunet_mamba import checkpoints, cli, trainers

SNAPSHOT = Path(__file__).with_name("public_surface.json")
PACKAGE = Path(nnunet_mamba.__path__[0])


def python_names() -> dict[str, str]:
    """Public functions -> their signatures."""
    functions = {name: getattr(nnunet_mamba, name) for name in nnunet_mamba.__all__}
    functions["checkpoints.convert_state_dict"] = checkpoints.convert_state_dict
    return {name: str(inspect.signature(function)) for name, function in functions.items()}


def dotted_paths() -> list[str]:
    """What plans files may name as their network's class."""
    networks = import_module("nnunet_mamba.networks")
    assert all(callable(getattr(networks, name)) for name in nnunet_mamba.list_networks())
    return [
        "nnunet_mamba.create_network",
        *(f"nnunet_mamba.networks.{n}" for n in nnunet_mamba.list_networks()),
    ]


def state_dicts() -> dict[str, str]:
    """Networks -> number of entries of their state_dict, and a digest of names and shapes."""
    result = {}
    for name in nnunet_mamba.list_networks():
        with torch.device("meta"):
            network = nnunet_mamba.create_network(name, input_channels=1, num_classes=3)
        entries = [f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items()]
        digest = hashlib.sha256("\n".join(entries).encode()).hexdigest()
        result[name] = f"{len(entries)} {digest[:12]}"
    return result


def options_of(parser: argparse.ArgumentParser) -> dict:
    """Arguments of a command, or its verbs -> theirs."""
    arguments = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {verb: options_of(sub) for verb, sub in action.choices.items()}
        arguments.append(" ".join(action.option_strings) or str(action.metavar or action.dest))
    verbs = {verb: options_of(sub) for verb, sub in getattr(parser, "verbs", {}).items()}
    return {"": " | ".join(argument for argument in arguments if argument != "-h --help"), **verbs}


def command() -> dict:
    """Verbs of `nnunet-mamba` -> their options."""
    return {verb: options_of(cli._parsers(verb)[1]) for verb in cli.VERBS}


def trainer_names() -> dict[str, str]:
    """Endings -> the trainers that come with just these."""
    endings: dict[str, list[str]] = {}
    for name in trainers.__all__:
        base, ending = re.fullmatch(r"nnUNetTrainer(.*?)((?:_\d+epochs?|_demo|_smoke)?)", name).groups()
        endings.setdefault(base, []).append(ending or "-")
    groups: dict[str, list[str]] = {}
    for base, found in endings.items():
        groups.setdefault(" ".join(sorted(found)), []).append(base)
    return {found: " ".join(sorted(bases)) for found, bases in sorted(groups.items())}


def operators() -> list[str]:
    """Operators that exported and compiled graphs name."""
    names = {entry.split(".")[0] for entry in torch._C._dispatch_get_all_op_names()}
    return sorted(name for name in names if name.startswith("nnunet_mamba::"))


def environment_variables() -> list[str]:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    return sorted(set(re.findall(r"NNUNET_MAMBA_[A-Z_]+[A-Z]", sources)))


def study_keys() -> dict[str, str]:
    """Places of a study file -> the keys that are known there."""
    schema = json.loads((PACKAGE / "study" / "sweep" / "study.schema.json").read_text())
    places = {name.removesuffix("Entry").lower(): part for name, part in schema["$defs"].items()}
    return {
        place: ", ".join(sorted(part["properties"])) for place, part in {"study": schema, **places}.items()
    }


def columns() -> dict[str, list[str]]:
    """Tables that commands write -> their columns, or of JSON the fields."""
    from dataclasses import fields

    from nnunet_mamba.study.evaluation import table
    from nnunet_mamba.study.statistics import output, results

    return {
        "evaluate": list(table.COLUMNS),
        "compare.csv": output.as_csv([]).strip().split(","),
        "compare.json": [field.name for field in fields(results.DatasetComparison)],
    }


SURFACE = (
    python_names,
    dotted_paths,
    state_dicts,
    command,
    trainer_names,
    operators,
    environment_variables,
    study_keys,
    columns,
)


@pytest.mark.parametrize("part", SURFACE, ids=lambda part: part.__name__)
def test_the_public_surface_is_the_recorded_one(part):
    assert part() == json.loads(SNAPSHOT.read_text())[part.__name__]


if __name__ == "__main__":
    surface = {part.__name__: part() for part in SURFACE}
    SNAPSHOT.write_text(json.dumps(surface, indent=1) + "\n")
    sys.stdout.write(f"{SNAPSHOT}\n")
