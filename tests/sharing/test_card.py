"""The card: what it tells is what the model is."""

import pytest
import yaml

from nnunet_mamba.io.tables import Table
from nnunet_mamba.nnunet.paths import parse_method
from nnunet_mamba.sharing.card import LICENCES, Card, FoldFacts, Words, render_card
from nnunet_mamba.sharing.export_model import export_model


@pytest.fixture
def make_card(trained):
    """A function: the card of a trainer's model."""

    def make(trainer="nnUNetTrainerMMUNet", **changes) -> str:
        card = {
            "method": parse_method(f"{trainer}__nnUNetPlans__3d_fullres"),
            "dataset": "Dataset027_ACDC",
            "plans": trained.plans,
            "description": trained.description,
            "checkpoint": "checkpoint_final.pth",
            "folds": [FoldFacts("0", 1234567, 1000, (0, 1, 2)), FoldFacts("1", 1234567, 1000, (0, 1, 2))],
            "words": Words(),
            "scores": [],
            "split": {"0": "80 cases trained on, 20 validated", "1": "not known", "2": "not known"},
            "versions": {"nnunet_mamba": "0.1.0", "torch": "2.9"},
        }
        return render_card(Card(**(card | changes)))

    return make


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_has_the_facts(make_card):
    text = make_card()
    for fact in (
        "# MM-UNet for ACDC",
        "MM-UNet (Xie et al., arXiv:2503.17540)",
        "1,234,567",
        "the paper's: SGD from 1e-3",
        "epochs                      | 1000 ",
        "8 x 8 x 8",
        "1 x 1 x 1, in the axis order",
        "0: CT, 1: PET",
        "background 0, liver 1, tumour [1, 2]",
        "segments 2 structures",
        "fold 0: 80 cases trained on, 20 validated; fold 1, 2: not known",
        "| 0, 1, 2 ",
        "nnunet_mamba 0.1.0, torch 2.9",
        "-d Dataset027_ACDC -c 3d_fullres -tr nnUNetTrainerMMUNet -f 0 1\n",
        "* MM-UNet: Xie et al., arXiv:2503.17540",
        "* Isensee et al., nnU-Net",
        "## Scores\n\nNone were given",
        "## Licence\n\nNone was given.",
    ):
        assert fact in text, fact
    assert "license" not in front_matter(text)


@pytest.mark.parametrize(
    ("trainer", "network", "paper"),
    [
        ("nnUNetTrainerMMUNetNoSSM_100epochs", "MM-UNet, without its SSM", "2503.17540"),
        ("nnUNetTrainerMMUNet_Attention", "MM-UNet with Attention", "2503.17540"),
        ("nnUNetTrainerUMambaBot", "U-Mamba Bot", "2401.04722"),
        ("nnUNetTrainerControl", "nnU-Net's PlainConvUNet", "Nature Methods"),
        ("nnUNetTrainer_250epochs", "PlainConvUNet", "Nature Methods"),
        ("nnUNetTrainerTheirs", "network of nnUNetTrainerTheirs", "Nature Methods"),
    ],
)
def test_the_network_is_that_of_the_trainer(make_card, trainer, network, paper):
    text = make_card(trainer)
    assert f"# {network} for ACDC" in text and paper in text.split("## Citation")[1]


def test_what_the_exporter_says_is_on_it(make_card):
    scores = [Table(("label", "Dice"), [["liver", "0.9"]], title="Protocol honest.", notes=["Mean."])]
    words = Words("Livers", "For research.", "CC-BY-4.0", "Doe et al., 2026", "doe/livers")
    text = make_card(words=words, scores=scores, checkpoint="checkpoint_best.pth")
    for fact in (
        "# Livers\n\nFor research.",
        "Protocol honest.\n\n| label | Dice |",
        "| liver |  0.9 |\n\nMean.",
        "checkpoint_best.pth, not the final one",
        "import-model hf://doe/livers",
        "and huggingface-hub",
        "* Doe et al., 2026",
        "## Licence\n\nCC-BY-4.0",
    ):
        assert fact in text, fact
    expected = {"license": "cc-by-4.0", "library_name": "nnunet_mamba", "pipeline_tag": "image-segmentation"}
    assert expected.items() <= front_matter(text).items()


def test_a_licence_that_the_hub_has_no_word_for_is_another_one_there(make_card):
    found = front_matter(make_card(words=Words(licence="For us: only\n---\nlicense: mit")))
    assert found["license"] == "other" and "for us" in found["license_name"]
    assert all(front_matter(make_card(words=Words(licence=word)))["license"] == word for word in LICENCES)


def test_what_folds_differ_in_is_told(make_card):
    text = make_card(folds=[FoldFacts("0", 10, 5, None), FoldFacts("all", 10, None, (0,))])
    assert "0 or none" in text and "| 10 " in text and "-f 0 all" in text and "| 5 " in text


def test_an_export_counts_parameters_once(trained, tmp_path):
    """The shared kernel once; neither count nor mask."""
    export_model(trained.folder, tmp_path / "export")
    text = (tmp_path / "export" / "README.md").read_text()
    assert f"| {216 + 216 + 5 + 5 + 4 + 12 + 3 + 1} " in text
    assert "fold 0, 1: not known, there was no log" in text
