"""Commands in README.md and docs/ are accepted by the parsers of the commands, and name what exists."""

import argparse
import importlib
import re
import shlex
import sys
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path

import pytest

from nnunet_mamba import cli
from nnunet_mamba.io.resources import template_names
from nnunet_mamba.nnunet import version
from nnunet_mamba.nnunet.catalogue import list_network_names, list_trainer_names
from nnunet_mamba.study.datasets.specs import DATASETS, LONGRANGE
from nnunet_mamba.study.submissions import SUBMISSIONS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDER = {"D": "1", "DATASET": "1", "DATASET_ID": "1", "$fold": "0", "$method": "nnUNetTrainer"}
NOT_WHOLE = ("are required", "expected one argument", "expected at least one")  # errors of `evaluate --out`
COMMAND = re.compile(r"(?:nnunet-mamba|nnUNetv2_\w+)\b")
NNUNET = {
    entry.name: entry.value
    for entry in entry_points(group="console_scripts")
    if entry.value.startswith("nnunetv2.")
}
NAMES = {  # of the arguments whose values must exist
    ("convert", "name"): {*DATASETS, LONGRANGE},
    ("submit", "name"): set(SUBMISSIONS),
    ("plans", "template"): set(template_names()),
    ("plans", "network"): set(list_network_names()),
    ("estimate", "network"): set(list_network_names()),
}


def commands(page: str) -> list[list[str]]:
    """Words of every command in blocks of a shell and in inline code, without those that dots shorten."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language in ("", "bash")]
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines() + re.findall(r"`([^`]+)`", prose)
    found = []
    for line in filter(COMMAND.search, lines):
        words = shlex.split(line.replace("$(", "$ ; ").replace(";", " ; "), comments=True)
        for is_end, part in groupby(words, lambda word: word in ("&&", ";", "|", ">")):
            command = [] if is_end else [PLACEHOLDER.get(word, word) for word in part]
            while command and not COMMAND.fullmatch(command[0]):
                command.pop(0)  # do, variables
            if len(command) > 1 and not any("..." in word for word in command):
                found.append(command)
    return found


class Parsed(Exception):
    """End of a command of nnU-Net whose arguments were accepted."""


@pytest.fixture
def parse(monkeypatch):
    """A function: the namespace of a command. SystemExit for arguments that its parser does not take."""
    parse_known_args = argparse.ArgumentParser.parse_known_args  # called by parse_args, too

    def stop(parser, *arguments):
        args, others = parse_known_args(parser, *arguments)
        if others:
            parser.error(f"unrecognized arguments: {others}")
        raise Parsed(args)

    def parse(command: list[str]) -> argparse.Namespace:
        name, *words = command
        if name == "nnunet-mamba":
            parser, _ = cli._parsers(words[0] if words else "")
            return parser.parse_args(words)
        module, function = NNUNET[name].split(":")
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        try:
            getattr(importlib.import_module(module), function)()
        except Parsed as parsed:
            return parsed.args[0]
        finally:
            monkeypatch.undo()

    return parse


@pytest.fixture(scope="module")
def trainers() -> set[str]:
    """Names of all trainers, ours and nnU-Net's."""
    sources = version.find_trainer_folder().rglob("*.py")
    stock = {name for file in sources for name in re.findall(r"^class (\w+)", file.read_text(), re.MULTILINE)}
    return stock | set(list_trainer_names())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_accepted(page, parse, trainers, capsys):
    text = page.read_text()
    for command in commands(text):
        line = shlex.join(command)
        try:
            args = parse(command)
        except SystemExit as error:
            message = capsys.readouterr().err
            in_prose = f"`{line}`" in text and any(words in message for words in NOT_WHOLE)
            assert not error.code or in_prose, f"{line}\n{message}"
            continue
        values = [getattr(args, name, None) for name in ("tr", "trainer", "trainer_class_name")]
        assert trainers.issuperset(filter(None, values)), line
        for (verb, argument), names in NAMES.items():
            if command[:2] == ["nnunet-mamba", verb]:
                value = getattr(args, argument, None)
                assert value is None or value.isupper() or value in names, line


@pytest.mark.parametrize(
    "wrong",
    [
        "nnunet-mamba submit acdc pred --imagez x",
        "nnunet-mamba quikstart",
        "nnUNetv2_train 1 2d 0 -trainer x",
    ],
)
def test_a_wrong_command_is_noticed(parse, wrong):
    ((command),) = commands(f"```bash\n{wrong}  # why\n```\n")
    with pytest.raises(SystemExit) as error:
        parse(command)
    assert error.value.code


def test_commands_are_found_wherever_they_stand():
    page = (
        "`nnunet-mamba doctor`\n```\nfor f in 0 1; do\n  A=b nnUNetv2_train D 2d $f \\\n    --c; done\n```\n"
    )
    assert commands(page) == [["nnUNetv2_train", "1", "2d", "$f", "--c"], ["nnunet-mamba", "doctor"]]
    assert commands("```python\nx\n```\nnnunet-mamba plans\n```bash\nnnunet-mamba doctor\n```\n") == [
        ["nnunet-mamba", "doctor"]
    ]
    assert commands("```bash\nnnunet-mamba predict ...\nls\n```\n`nnunet-mamba`") == []
