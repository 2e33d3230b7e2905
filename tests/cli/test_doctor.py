"""nnunet-mamba doctor."""

import pytest

from nnunet_mamba import doctor
from nnunet_mamba.cli import main
from nnunet_mamba.doctor import Finding


@pytest.mark.parametrize(("remedy", "code"), [(None, 0), ("pip install x", 1)])
def test_the_exit_code_tells_whether_there_are_faults(capsys, monkeypatch, remedy, code):
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("Versions", "x", remedy)])
    assert main(["doctor"]) == code
    assert ("-> pip install x" in capsys.readouterr().out) == bool(code)
