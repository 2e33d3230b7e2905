"""nnunet-mamba trainers."""

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.cli.trainers import LEGEND
from nnunet_mamba.nnunet.catalogue import LENGTHS, NETWORKS, TRAINERS


def listed(capsys, *words: str) -> list[str]:
    """The first column of the table."""
    assert main(["trainers", *words]) == 0
    return [line.split()[0] for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]


def test_all_trainers_are_in_the_table_with_network_paper_and_recipe(capsys):
    assert main(["trainers"]) == 0
    text = capsys.readouterr().out
    head, *rows = text.split("\n\n")[0].splitlines()
    assert head.split() == ["trainer", "network", "paper", "axes", "twin", "demo", "recipe"]
    assert [row.split()[0] for row in rows] == [trainer.name for trainer in TRAINERS]
    for row, trainer in zip(rows, TRAINERS, strict=True):
        network = NETWORKS[trainer.network]
        assert network.title in row and network.paper in row and row.endswith(trainer.recipe)
    assert text.endswith(f"{LEGEND}\n")


@pytest.mark.parametrize(
    ("word", "some", "none"),
    [
        ("taming", "nnUNetTrainerMambaUniPaper", "nnUNetTrainerMMUNet"),
        ("2410.15496", "nnUNetTrainerMambaMulti", "nnUNetTrainerVMUNet"),
        ("u-mamba", "nnUNetTrainerUMambaEnc", "nnUNetTrainerSegResNet"),
        ("UMAMBA", "nnUNetTrainerSwinUMamba", "nnUNetTrainerSegResNet"),
        ("adamw", "nnUNetTrainerUNETR", "nnUNetTrainerMMUNet"),
        ("2d 3d", "nnUNetTrainerMMUNet", "nnUNetTrainerVMUNet"),
    ],
)
def test_a_word_is_looked_for_in_names_networks_and_papers_else_in_recipes(capsys, word, some, none):
    names = listed(capsys, word)
    assert some in names and none not in names


@pytest.mark.parametrize(
    "name",
    ["nnUNetTrainerMMUNet", "nnUNetTrainerMMUNet_250epochs", "nnUNetTrainerMMUNetNoSSM_demo"],
)
def test_of_one_trainer_all_is_told(capsys, name):
    assert main(["trainers", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith("nnUNetTrainerMMUNet\n")
    for part in (
        "MM-UNet (mm_unet), 2D 3D; Xie et al., arXiv:2503.17540",
        "nnUNetTrainerMMUNetNoSSM, the same",
        "nnUNetTrainerMMUNet_NoDecaySSM",
        "nnUNetTrainerMMUNet_smoke",
        "nnUNetTrainerMMUNet_demo",
        " ".join(LENGTHS),
        "nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerMMUNet\n",
    ):
        assert part in said


def test_a_network_of_2d_is_trained_in_2d(capsys):
    main(["trainers", "nnUNetTrainerVMUNet"])
    said = capsys.readouterr().out
    assert "nnUNetv2_train DATASET 2d 0" in said and "_demo" not in said


def test_a_word_that_nothing_has_is_met_with_what_may_be_meant(capsys):
    assert main(["trainers", "mmunett"]) == 2
    assert "Did you mean nnUNetTrainerMMUNet?" in capsys.readouterr().err
