"""What every verb has in common: faults of user or installation are one line, never a traceback."""

import pytest

from nnunet_mamba.cli import main, networks


def test_the_kinds_of_faults_on_the_command_line_are_those_that_can_be_accepted(capsys):
    from nnunet_mamba.datasets.source import ACCEPTABLE

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
