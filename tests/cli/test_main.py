"""What every verb has in common: faults of user or installation are one line, never a traceback."""

import argparse
import io
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

from nnunet_mamba.cli import VERBS, main, networks


def test_the_kinds_of_faults_on_the_command_line_are_those_that_can_be_accepted(capsys):
    from nnunet_mamba.study.datasets.source import ACCEPTABLE

    with pytest.raises(SystemExit):
        main(["convert", "acdc", "x", "--accept", "nonsense"])
    said = capsys.readouterr().err
    assert said.splitlines()[-1].endswith(f"Choose one of {', '.join(ACCEPTABLE)}.")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            ValueError("this came, that was expected"),
            2,
            "nnunet-mamba networks: this came, that was expected",
        ),
        (PermissionError("may not write"), 2, "nnunet-mamba networks: may not write"),
        (
            ModuleNotFoundError("No module named 'x'"),
            2,
            "No module named 'x'; `nnunet-mamba doctor` tells more",
        ),
        (KeyboardInterrupt(), 130, "nnunet-mamba networks: interrupted"),
    ],
)
def test_faults_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    def fail(args):
        raise error

    monkeypatch.setattr(networks, "networks", fail)
    assert main(["networks"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err and printed.err.count("\n") == 1


def test_alone_it_lists_its_verbs(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    for verb in VERBS:
        assert f"\n    {verb} " in said or f"\n    {verb}\n" in said


@pytest.mark.parametrize(
    ("group", "verbs"), [("plans", ["split", "templates", "apply", "check", "make"]), ("sweep", ["status"])]
)
def test_a_group_alone_lists_its_verbs(capsys, group, verbs):
    assert main([group]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in verbs)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_that_says_what_it_does(capsys, verb):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: nnunet-mamba {verb}")
    assert len(said.split("\n\n")[1]) > 30  # a description


def test_help_is_a_verb_too(capsys):
    for words in (["help"], ["help", "plans"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert capsys.readouterr().out.startswith(f"usage: nnunet-mamba {''.join(words[1:])}")


def test_its_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"nnunet-mamba {version('nnunet_mamba')}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evalute"], "Unknown verb 'evalute'. Did you mean evaluate?"),
        (["plan"], "Unknown verb 'plan'. Did you mean plans?"),
        (["plans", "aply"], "Unknown verb 'aply'. Did you mean apply?"),
        (["quickstart", "--device", "cud"], "argument --device: Unknown choice 'cud'. Did you mean cuda?"),
    ],
)
def test_a_word_with_a_typing_error_is_recognised(capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert said in capsys.readouterr().err


def test_the_verbs_in_the_table_are_those_of_their_modules():
    """One module for each, which adds exactly the verbs that the table says it does."""
    for name in {module for module, _ in VERBS.values()}:
        commands = argparse.ArgumentParser().add_subparsers()
        import_module(f"nnunet_mamba.cli.{name}").add(commands)
        assert set(commands.choices) == {verb for verb, (module, _) in VERBS.items() if module == name}


def test_signs_that_a_terminal_does_not_have_stop_nothing(monkeypatch):
    """The minus sign of `compare` is not in Windows' code page for files and pipes."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    monkeypatch.setattr(networks, "networks", lambda args: sys.stdout.write("− 1 ± 2\n"))
    main(["networks"])
    sys.stdout.flush()
    assert written.getvalue().decode("cp1252").strip() == r"\u2212 1 ± 2"
