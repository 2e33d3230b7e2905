"""Releases: cases that one implies and that are missing, and a dataset.json that contradicts the spec."""

import json
import shutil
from pathlib import Path

import pytest
from releases import BUILDERS, keep_three_videos
from tiny_files import put

from nnunet_mamba.cli import main


@pytest.fixture
def convert(tmp_path, capsys):
    """Return a function that converts a changed release and returns the command's output."""

    def run(name, change, code=1) -> str:
        sources = BUILDERS[name](tmp_path / "release")
        change(tmp_path / "release")
        assert main(["convert", name, *map(str, sources), "--raw", str(tmp_path / "raw")]) == code
        return "".join(capsys.readouterr())

    return run


def moved(source: str, target: str):
    """Move what is at the path `source` of a release, folders and all."""

    def do(release: Path) -> None:
        (release / target).parent.mkdir(parents=True, exist_ok=True)
        (release / source).rename(release / target)

    return do


DEEPER = {
    "synapse": [
        (f"RawData/Training/{kind}/{kind}0002.nii.gz", f"RawData/more/Training/{kind}/{kind}0002.nii.gz")
        for kind in ("img", "label")
    ],
    "acdc": [("ACDC/database/training/patient001", "ACDC/database/batch2/training/patient001")],
    "flare22": [
        (f"FLARE22Train/{kind}/FLARE22_Tr_0003{end}", f"FLARE22Train/more/{kind}/FLARE22_Tr_0003{end}")
        for kind, end in (("images", "_0000.nii.gz"), ("labels", ".nii.gz"))
    ],
}


@pytest.mark.parametrize("name", DEEPER)
def test_a_case_that_lies_deeper_than_the_others(convert, name):
    def do(release):
        for source, target in DEEPER[name]:
            moved(source, target)(release)

    assert "does not lie where the other cases do; put it there" in convert(name, do)


BRATS = "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_00003"


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("brats21", BRATS, f"{BRATS} copy"),
        ("brats21", BRATS, BRATS.replace("00003", "0003")),
        ("acdc", "ACDC/database/training/patient002", "ACDC/database/training/patient2"),
    ],
)
def test_a_folder_of_a_case_that_is_named_otherwise(convert, name, source, target):
    said = convert(name, moved(source, target))
    assert f"{Path(target).name} is next to" in said and "its name has another form" in said


def test_an_empty_folder_of_a_case_that_was_never_there(convert):
    said = convert("brats21", lambda release: (release / BRATS).with_name("BraTS2021_0007").mkdir())
    assert "BraTS2021_0007 is next to" in said


def test_an_empty_folder_of_a_video(convert):
    video = "instrument_1_4_training/instrument_dataset_1"

    def do(release):
        keep_three_videos(release)
        shutil.rmtree(release / video)
        (release / video).mkdir()

    assert f"{video} holds no image" in convert("endovis17", do)


def test_a_mask_of_one_tool_of_which_other_frames_have_one(convert):
    """A missing mask would make the frame's tool background."""
    tool = "instrument_1_4_training/instrument_dataset_1/ground_truth/Left_Prograsp_Forceps_labels"

    def do(release):
        keep_three_videos(release)
        (release / tool / "frame000.png").unlink()

    said = convert("endovis17", do)
    assert "case video1_frame000 has no label in" in said and "Left_Prograsp_Forceps_labels" in said


def test_a_folder_of_test_images_that_was_emptied(convert):
    def do(release):
        for file in (release / "Task04_Hippocampus" / "imagesTs").iterdir():
            file.unlink()

    assert "is listed in" in convert("msd", do)


def test_a_folder_of_test_images_that_is_not_there_is_none(convert):
    convert("msd", lambda release: shutil.rmtree(release / "Task04_Hippocampus" / "imagesTs"), code=0)


def test_a_list_that_pairs_other_files(convert):
    def do(release):
        file = release / "Task04_Hippocampus" / "dataset.json"
        description = json.loads(file.read_text())
        first, second, *_ = description["training"]
        first["label"], second["label"] = second["label"], first["label"]
        file.write_text(json.dumps(description))

    assert "expected an image and a label of one name" in convert("msd", do)


def test_hidden_folders_and_files_beside_cases_are_none(convert):
    def do(release):
        put((release / BRATS).parent / ".Trash" / "a", "")
        put((release / BRATS).parent / "name_mapping.csv", "")

    convert("brats21", do, code=0)


def convert_described(name, folder, changes) -> int:
    sources = BUILDERS[name](folder / "release")
    (file,) = (folder / "release").rglob("dataset.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return main(["convert", name, *map(str, sources), "--raw", str(folder / "raw")])


@pytest.mark.parametrize("name", ["msd_braintumour", "msd_braintumour_regions"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                "labels": {
                    "0": "background",
                    "1": "enhancing tumour",
                    "2": "non-enhancing tumor",
                    "3": "edema",
                }
            },
            "the label 'enhancingtumor' as 1",
        ),
        ({"modality": {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"}}, "the channel 'T1w' as 0"),
    ],
)
def test_other_numbers_than_known_are_refused(tmp_path, capsys, name, changes, says):
    assert convert_described(name, tmp_path, changes) == 2
    message = capsys.readouterr().err
    assert says in message and "as it is known" in message


def test_amos_with_exchanged_organs_is_refused(tmp_path, capsys):
    labels = {"0": "background", "1": "liver", "6": "spleen"}
    assert convert_described("amos22_ct", tmp_path, {"labels": labels}) == 2
    assert "the label 'liver' as 1, the label 'spleen' as 6" in capsys.readouterr().err


def test_another_spelling_and_names_that_are_not_known_are_taken(tmp_path):
    labels = {"0": "background", "1": "Edema", "2": "non enhancing tumour", "3": "enhancing tumour"}
    assert convert_described("msd_braintumour", tmp_path, {"labels": labels}) == 0
