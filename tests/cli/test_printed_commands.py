"""Commands that are printed to be copied: a path or name of the user's stays one word in a shell."""

import shlex
from types import SimpleNamespace

import pytest
from tiny_exports import write_trained

from nnunet_mamba.cli import main
from nnunet_mamba.cli.model_options import check_model
from nnunet_mamba.io.resources import check_device
from nnunet_mamba.study.sweep.run_graph import RunGraph
from nnunet_mamba.trainers.folds import check_fold

NAME = "Dataset004_My organ's"


def find_model_without_a_fold(folder):
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    check_model(folder, ["1"], "checkpoint_final.pth")


def get_lacking_job(folder):
    RunGraph.get_job(SimpleNamespace(jobs={}, out=folder), "train")


@pytest.mark.parametrize(
    ("refuse", "start", "given"),
    [
        (lambda folder: check_fold(7, folder / "splits_final.json"), "nnunet-mamba plans split", NAME),
        (lambda folder: check_device(f"{folder}.json"), "nnunet-mamba estimate --measure", "{}.json"),
        (get_lacking_job, "nnunet-mamba sweep status", "{}"),
        (find_model_without_a_fold, "  -m", "{}"),
    ],
    ids=["folds", "estimate", "sweep", "model"],
)
def test_errors_quote_what_they_put_into_commands(nnunet_folders, tmp_path, refuse, start, given):
    folder = tmp_path / NAME
    with pytest.raises(ValueError) as error:
        refuse(folder)
    assert f"{start} {shlex.quote(given.format(folder))}" in str(error.value)


def test_the_command_after_an_import_can_be_copied(tmp_path, capsys):
    export, there = str(tmp_path / "an export"), tmp_path / "my results"
    trained = write_trained(tmp_path / "results").folder
    assert main(["export-model", str(trained), export]) == 0
    assert main(["import-model", export, "-o", str(there), "-f", "1", "1"]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    model = there / trained.parent.name / trained.name
    assert command == f"nnunet-mamba predict -i IMAGES -o OUT -m '{model}' -f 1"
