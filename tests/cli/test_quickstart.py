import pytest

from nnunet_mamba.cli import main


def test_user_errors_are_one_line_and_exit_code_2(tmp_path, capsys):
    assert (
        main(["quickstart", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith(f"nnunet-mamba quickstart: {tmp_path} is not a dataset: ")
    assert "Traceback" not in error


def test_no_unseen_cases_is_refused(tmp_path, capsys):
    assert main(["quickstart", "--cases", "0", "--out", str(tmp_path / "out")]) == 2
    assert "--cases 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_names_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["quickstart", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "nnUNetTrainerMMUNet_demo" in text and "3d_fullres" in text and "Decathlon" in text


def test_a_failing_command_gives_exit_code_1(tmp_path, capsys, monkeypatch):
    from nnunet_mamba.study.sweep import quickstart, run_job

    def fail(settings, out, log):
        raise run_job.JobFailedError("train failed: RuntimeError: no")

    monkeypatch.setattr(quickstart, "run_quickstart", fail)
    assert main(["quickstart", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 1
    assert "nnunet-mamba quickstart: train failed" in capsys.readouterr().err
