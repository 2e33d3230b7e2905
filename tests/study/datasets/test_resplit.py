"""Splitting a dataset that is nnU-Net's already, and checking splits that others have made."""

import json

import numpy as np
import pytest
import tifffile
from tiny_files import PICTURE, disc, photograph, write_picture

from nnunet_mamba.cli import main
from nnunet_mamba.nnunet.paths import resolve_dataset_name
from nnunet_mamba.study.datasets import resplit as module
from nnunet_mamba.study.datasets.resplit import read_unsplit_dataset, resplit_dataset
from nnunet_mamba.study.datasets.splits import LeakError

DATASET = "Dataset027_ACDC"
NAMES = [f"patient{n:03d}_frame{frame:02d}" for n in range(1, 101) for frame in (1, 10)]


@pytest.fixture
def raw(nnunet_folders):
    """ACDC as `convert` leaves it; the files hold their names, for nothing here opens them as images."""
    folder = nnunet_folders.raw / DATASET
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in NAMES:
        (folder / "imagesTr" / f"{name}_0000.nii.gz").write_text(name)
        (folder / "labelsTr" / f"{name}.nii.gz").write_text(name)
    describe(folder, nnunet_mamba={"release": "acdc", "group": r"patient\d{3}"})
    return folder


def describe(folder, **more):
    description = {
        "channel_names": {"0": "cineMRI"},
        "labels": {"background": 0, "RV": 1, "MYO": 2, "LV": 3},
        "numTraining": len(NAMES),
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def split_by(raw, name, **options):
    preprocessed = raw.parents[1] / "preprocessed" / raw.name
    return resplit_dataset(raw, read_unsplit_dataset(raw), name, preprocessed=preprocessed, **options)


def files(folder):
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_test_cases_move_out_of_nnunets_sight_with_their_labels(raw):
    split = split_by(raw, "nnformer")
    assert files(raw / "imagesTs") == {f"{name}_0000.nii.gz" for name in split.test}
    assert files(raw / "labelsTs") == {f"{name}.nii.gz" for name in split.test}
    assert len(files(raw / "imagesTr")) == len(files(raw / "labelsTr")) == 160
    description = json.loads((raw / "dataset.json").read_text())
    assert description["numTraining"] == 160
    assert description["channel_names"] == {"0": "cineMRI"}
    assert json.loads((raw / "splits_final.json").read_text()) == split.to_json()


def test_a_second_split_gets_the_moved_cases_back(raw):
    split_by(raw, "nnformer")
    split = split_by(raw, "mamba_unet")
    assert files(raw / "labelsTs") == {f"{name}.nii.gz" for name in split.test}
    assert len(files(raw / "imagesTr")) == 160
    split_by(raw, "5fold")
    assert len(files(raw / "imagesTr")) == 200 and not files(raw / "imagesTs")
    assert (raw / "imagesTr" / f"{NAMES[0]}_0000.nii.gz").read_text() == NAMES[0]


def test_the_releases_own_test_cases_stay_where_they_are(raw):
    (raw / "imagesTs").mkdir()
    own = raw / "imagesTs" / "patient101_frame01_0000.nii.gz"
    own.write_text("unlabelled")
    for name in ("nnformer", "5fold"):
        split = split_by(raw, name)
        assert files(raw / "imagesTs") == {own.name, *(f"{case}_0000.nii.gz" for case in split.test)}
        assert len(files(raw / "imagesTr")) == 200 - len(split.test)


def test_a_moved_case_without_its_label_stays_a_test_case(raw):
    lost, *_ = split_by(raw, "nnformer").test
    (raw / "labelsTs" / f"{lost}.nii.gz").unlink()
    assert lost not in read_unsplit_dataset(raw).labelled_names()
    split_by(raw, "5fold")
    assert files(raw / "imagesTs") == {f"{lost}_0000.nii.gz"}


@pytest.mark.parametrize("at", [0, 1, 7, 79])
def test_an_interrupted_split_can_be_repeated(raw, monkeypatch, at):
    real, moved = type(raw).replace, []

    def stop(self, target):
        if target.parent.name.endswith("Ts"):
            moved.append(target)
            if len(moved) > at:
                raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(raw), "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            split_by(raw, "nnformer")
    split = split_by(raw, "nnformer")
    assert files(raw / "imagesTs") == {f"{name}_0000.nii.gz" for name in split.test}
    assert len(files(raw / "labelsTr")) == 160


def test_a_split_that_leaks_is_refused_and_nothing_moves(raw):
    with pytest.raises(LeakError, match=r"taming_torn leaks:\n  fold 0: 24 of 32 validation images"):
        split_by(raw, "taming_torn")
    assert len(files(raw / "imagesTr")) == 200 and not (raw / "splits_final.json").exists()
    assert len(split_by(raw, "taming_torn", allow_leaks=True).folds) == 5


def test_cases_do_not_move_once_nnunet_has_looked_at_them(raw, nnunet_folders):
    preprocessed = nnunet_folders.preprocessed / DATASET
    preprocessed.mkdir()
    (preprocessed / "dataset_fingerprint.json").write_text("{}")
    with pytest.raises(ValueError, match=r"80 files would change sides, but .*preprocessed.* Remove"):
        split_by(raw, "nnformer")
    split = split_by(raw, "7:3")  # moves nothing
    assert json.loads((preprocessed / "splits_final.json").read_text()) == split.to_json()


def check(capsys, *arguments):
    code = main(["plans", "split", "27", "--check", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_command_splits_and_finds_no_leak(raw, capsys):
    assert main(["plans", "split", "27", "--name", "nnformer"]) == 0
    assert "training/validation 140/20; test 40" in capsys.readouterr().out
    code, said = check(capsys)
    assert code == 0 and "by patients (patient\\d{3}): no leak" in said


def test_the_check_names_the_patients_of_somebody_elses_folds(raw, nnunet_folders, capsys):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    preprocessed = nnunet_folders.preprocessed / DATASET
    preprocessed.mkdir()
    folds = [{k: list(map(str, v)) for k, v in fold.items()} for fold in generate_crossval_split(NAMES)]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds))
    code, said = check(capsys)
    assert code == 1
    assert said.count("validation images have images of their patient in training: patient") == 5


def test_the_check_names_cases_that_are_not_there_and_cases_that_no_fold_has(raw, tmp_path, capsys):
    file = tmp_path / "folds.json"
    file.write_text(json.dumps([{"train": ["patient001_frame01", "patient200_frame01"], "val": NAMES[2:]}]))
    code, said = check(capsys, file)
    assert code == 1
    assert "cases that are not in imagesTr: patient200_frame01" in said
    assert "in no fold at all: patient001_frame10" in said


def test_the_check_names_patients_of_the_test_set_in_training(raw, capsys):
    """The first frame of patient 1 was moved to the test set, and the second is trained on."""
    first, *rest = NAMES
    for part, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (raw / f"{part}Ts").mkdir()
        (raw / f"{part}Tr" / f"{first}{ending}").rename(raw / f"{part}Ts" / f"{first}{ending}")
    describe(raw, nnunet_mamba={"release": "acdc", "group": r"patient\d{3}", "moved": [first]})
    (raw / "splits_final.json").write_text(json.dumps([{"train": rest[:-2], "val": rest[-2:]}]))
    code, said = check(capsys)
    assert code == 1
    assert "1 of 1 test images have images of their patient in training: patient001\n" in said


def test_a_dataset_of_other_converters_is_told_its_release(raw, capsys):
    describe(raw)
    assert main(["plans", "split", "27", "--name", "nnformer"]) == 2
    assert "Unknown split of this dataset 'nnformer'" in capsys.readouterr().err
    assert main(["plans", "split", "27", "--name", "nnformer", "--release", "ACDC"]) == 0
    assert json.loads((raw / "dataset.json").read_text())["nnunet_mamba"]["group"] == r"patient\d{3}"


@pytest.mark.parametrize("text", ["{", "[1]", '[{"train": []}]'])
def test_a_file_that_is_no_split(raw, tmp_path, capsys, text):
    (tmp_path / "folds.json").write_text(text)
    assert main(["plans", "split", "27", "--check", str(tmp_path / "folds.json")]) == 2
    assert "is not a split of nnU-Net" in capsys.readouterr().err


def test_a_dataset_is_found_by_its_number(raw):
    assert (
        resolve_dataset_name("27") == resolve_dataset_name("027") == resolve_dataset_name(DATASET) == DATASET
    )
    with pytest.raises(ValueError, match="there are Dataset027_ACDC"):
        resolve_dataset_name("28")
    with pytest.raises(ValueError, match="expected Dataset###_Name"):
        resolve_dataset_name("ACDC")


def test_the_name_of_the_splits_file_is_nnunets():
    assert module.SPLITS == "splits_final.json"


def test_the_check_knows_patients_by_their_names_where_nothing_was_noted(raw, capsys):
    """Another converter leaves ACDC so: the trap of Taming Mambas' folds must not pass as clean."""
    describe(raw)
    folds = [{"train": NAMES[::2], "val": NAMES[1::2]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    code, said = check(capsys)
    assert code == 1
    assert "100 of 100 validation images have images of their patient in training" in said
    assert "patient001, patient002" in said and "patient100" in said


def test_the_releases_own_validation_part_is_remembered(raw):
    described = {"release": "acdc", "group": r"patient\d{3}", "validation": NAMES[:2]}
    describe(raw, nnunet_mamba=described)
    (fold,) = split_by(raw, "official").folds
    assert fold.val == tuple(NAMES[:2])
    (fold,) = split_by(raw, "official").folds  # still known
    assert fold.val == tuple(NAMES[:2])


def pictures(nnunet_folders, ending, n_files, write):
    """Dataset028_Pictures with two channels and ten cases, in files that `write` makes."""
    folder = nnunet_folders.raw / "Dataset028_Pictures"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for k in range(10):
        for n in range(n_files):
            write(folder / "imagesTr" / f"case{k}_{n:04d}{ending}")
        write_picture(folder / "labelsTr" / f"case{k}{ending}", disc(1))
    channels = 3 if n_files == 1 else n_files
    describe(
        folder,
        channel_names={str(n): str(n) for n in range(channels)},
        labels={"background": 0, "disc": 1},
        file_ending=ending,
        numTraining=10,
    )
    return folder


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("n_files", [1, 2])
def test_colours_in_one_file_or_a_grey_file_for_each_channel(nnunet_folders, ending, n_files, capsys):
    shape = (*PICTURE, 3) if n_files == 1 else PICTURE
    folder = pictures(nnunet_folders, ending, n_files, lambda file: write_picture(file, photograph(0, shape)))
    assert main(["plans", "split", "28", "--name", "5fold"]) == 0
    assert len(json.loads((folder / "splits_final.json").read_text())) == 5
    next((folder / "imagesTr").glob("case3_*")).unlink()
    assert main(["plans", "split", "28", "--name", "5fold"]) == 2
    assert "case3" in capsys.readouterr().err


def test_the_spacing_of_tiff_volumes_moves_with_them(nnunet_folders):
    """CASE.json beside images and labels; without it nnU-Net takes voxels of 1 mm."""
    volume = np.zeros((5, 6, 7), np.uint8)
    folder = pictures(nnunet_folders, ".tif", 2, lambda file: tifffile.imwrite(file, volume))
    for k in range(10):
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"case{k}.json").write_text('{"spacing": [5, 1, 1]}')
        tifffile.imwrite(folder / "labelsTr" / f"case{k}.tif", volume)
    assert main(["plans", "split", "28", "--name", "7:1:2"]) == 0
    for kind in ("images", "labels"):
        moved = files(folder / f"{kind}Ts")
        assert {name.removesuffix(".json") for name in moved if name.endswith(".json")} == {
            name.split("_")[0].removesuffix(".tif") for name in moved if name.endswith(".tif")
        }
        assert len(moved) == (6 if kind == "images" else 4)
    assert main(["plans", "split", "28", "--name", "5fold"]) == 0
    assert len(files(folder / "imagesTr")) == 30 and not files(folder / "imagesTs")
