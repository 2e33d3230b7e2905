"""Every data set from its release to nnU-Net's files: names, descriptions, values worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from one_process import without_processes
from releases import ALL_BTCV, BUILDERS, OTHER_BUILDERS, acdc, brain_tumour, btcv, build, hippocampus
from tiny_files import DIRECTION, ORIGIN_MM, PICTURE, SPACING_MM, blocks, disc, photograph, read_volume, scan

from nnunet_mamba.cli import main
from nnunet_mamba.io.images import read_picture
from nnunet_mamba.study.datasets.specs import DATASETS, get_spec

AMOS_LABELS = {
    "background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "gall bladder": 4, "esophagus": 5,
    "liver": 6, "stomach": 7, "aorta": 8, "postcava": 9, "pancreas": 10, "right adrenal gland": 11,
    "left adrenal gland": 12, "duodenum": 13, "bladder": 14, "prostate/uterus": 15,
}  # fmt: skip
BTCV_LABELS = {
    "background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "gallbladder": 4, "esophagus": 5,
    "liver": 6, "stomach": 7, "aorta": 8, "inferior vena cava": 9, "portal and splenic vein": 10,
    "pancreas": 11, "right adrenal gland": 12, "left adrenal gland": 13,
}  # fmt: skip
ORGANS_8 = {
    "background": 0, "aorta": 1, "gallbladder": 2, "left kidney": 3, "right kidney": 4, "liver": 5,
    "pancreas": 6, "spleen": 7, "stomach": 8,
}  # fmt: skip
ABDOMEN = {
    "background": 0, "liver": 1, "right kidney": 2, "spleen": 3, "pancreas": 4, "aorta": 5,
    "inferior vena cava": 6, "right adrenal gland": 7, "left adrenal gland": 8, "gallbladder": 9,
    "esophagus": 10, "stomach": 11, "duodenum": 12, "left kidney": 13,
}  # fmt: skip
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
TUMOUR = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumor": 3}
TOOLS = {
    "background": 0, "bipolar forceps": 1, "prograsp forceps": 2, "large needle driver": 3,
    "vessel sealer": 4, "grasping retractor": 5, "monopolar curved scissors": 6, "other": 7,
}  # fmt: skip
BRATS_CHANNELS, MSD_CHANNELS = ["T1", "T1ce", "T2", "Flair"], ["FLAIR", "T1w", "t1gd", "T2w"]
RGB = ["R", "G", "B"]

FOLDERS = {
    "amos22_ct": ("Dataset218_AMOS2022_postChallenge_task1", ["CT"], AMOS_LABELS),
    "amos22_ct_mr": ("Dataset219_AMOS2022_postChallenge_task2", ["either_CT_or_MR"], AMOS_LABELS),
    "amos22_mr": ("Dataset217_AMOS2022_postChallenge_MR", ["MRI"], AMOS_LABELS),
    "synapse": ("Dataset090_SynapseAbdomen", ["CT"], BTCV_LABELS),
    "synapse8": ("Dataset091_SynapseAbdomen8", ["CT"], ORGANS_8),
    "acdc": ("Dataset027_ACDC", ["cineMRI"], {"background": 0, "RV": 1, "MYO": 2, "LV": 3}),
    "msd_braintumour": ("Dataset001_BrainTumour", MSD_CHANNELS, TUMOUR),
    "msd_braintumour_regions": ("Dataset101_BrainTumourRegions", MSD_CHANNELS, REGIONS),
    "msd": ("Dataset004_Hippocampus", ["MRI"], {"background": 0, "Anterior": 1, "Posterior": 2}),
    "brats21": ("Dataset137_BraTS2021", BRATS_CHANNELS, REGIONS),
    "brats23": ("Dataset138_BraTS2023GLI", BRATS_CHANNELS, REGIONS),
    "flare22": ("Dataset701_AbdomenCT", ["CT"], ABDOMEN),
    "abdomen_mr": ("Dataset702_AbdomenMR", ["MR"], ABDOMEN),
    "endovis17": ("Dataset704_Endovis17", RGB, TOOLS),
    "cellseg": ("Dataset703_NeurIPSCell", RGB, {"background": 0, "interior": 1, "boundary": 2}),
    "isic17": ("Dataset705_ISIC2017", RGB, {"background": 0, "lesion": 1}),
    "isic18": ("Dataset706_ISIC2018", RGB, {"background": 0, "lesion": 1}),
}
WITH_REGIONS = ("msd_braintumour_regions", "brats21", "brats23")
READERS = {
    **dict.fromkeys(("amos22_ct", "amos22_ct_mr", "amos22_mr"), "NibabelIOWithReorient"),
    "acdc": "SimpleITKIO",
}
IMG, HEARTS = [f"img{n:04d}" for n in (1, 2, 3, 4, 5, 21)], [(1, 1, 10), (2, 1, 11), (3, 1, 12), (4, 1, 13)]
BRATS = [f"BRATS_{n:03d}" for n in range(1, 7)]
CASES = {  # training, test, of these with label
    "amos22_ct": (
        [f"amos_{n:04d}" for n in (1, 4, 5, 6, 8, 13, 409, 410)],
        ["amos_0002", "amos_0003", "amos_0500"],
        0,
    ),
    "amos22_ct_mr": (
        [f"amos_{n:04d}" for n in (1, 4, 5, 6, 8, 13, 409, 410, 507, 508, 510, 517, 518, 600)],
        [f"amos_{n:04d}" for n in (2, 3, 500, 541, 555)],
        0,
    ),
    "amos22_mr": ([f"amos_{n:04d}" for n in (507, 508, 510, 517, 518, 600)], ["amos_0541", "amos_0555"], 0),
    "synapse": (IMG, ["img0061", "img0062"], 0),
    "synapse8": (IMG, ["img0061", "img0062"], 0),
    "acdc": (
        [f"patient{p:03d}_frame{f:02d}" for p, *frames in (*HEARTS, (90, 4, 11)) for f in frames],
        [f"patient{p}_frame{f:02d}" for p, f in ((101, 1), (101, 10), (102, 1), (102, 11))],
        4,
    ),
    "msd_braintumour": (BRATS, ["BRATS_485", "BRATS_486"], 0),
    "msd_braintumour_regions": (BRATS, ["BRATS_485", "BRATS_486"], 0),
    "msd": ([f"hippocampus_{n:03d}" for n in (1, 3, 4, 6, 7, 8)], ["hippocampus_002", "hippocampus_005"], 0),
    "brats21": ([f"BraTS2021_{n:05d}" for n in (0, 2, 3, 5, 495, 621)], [], 0),
    "brats23": (
        [f"BraTS-GLI-{c}" for c in ("00000-000", "00002-000", "00003-000", "00008-000", "00008-001")], [], 0,
    ),
    "flare22": ([f"FLARE22_Tr_{n:04d}" for n in range(1, 7)], ["FLARETs_0001", "FLARETs_0002"], 2),
    "abdomen_mr": ([f"amos_{n:04d}" for n in (507, 508, 510, 514, 517)], ["amos_0540", "amos_0541"], 2),
    "endovis17": (
        [f"video{v}_frame{f}" for v in range(1, 9) for f in ("000", "224")],
        sorted([*(f"video{v}_frame225" for v in range(1, 9)), "video9_frame000", "video10_frame299"]),
        10,
    ),
    "cellseg": ([f"cell_{n:05d}" for n in range(1, 7)], ["tuning_cell_00001", "tuning_cell_00002"], 2),
    "isic17": (
        [f"ISIC_{n:07d}" for n in (0, 1, 2, 3, 1769, 1770, 10000)], ["ISIC_0012086", "ISIC_0012092"], 2,
    ),
    "isic18": (
        [f"ISIC_{n:07d}" for n in (0, 1, 3, 4, 6, 12255, 12346)], ["ISIC_0012169", "ISIC_0012236"], 2,
    ),
}  # fmt: skip
PICTURES = ("endovis17", "cellseg", "isic17", "isic18")


class Converted:
    """Each data set, built and converted when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._done: dict[str, Path] = {}

    def release(self, name: str) -> Path:
        return self.root / name / "release"

    def __call__(self, name: str) -> Path:
        if name not in self._done:
            self._done[name] = convert(name, build(name, self.release(name)), self.root / name / "raw")
        return self._done[name]


def convert(name: str, sources: list[Path], raw: Path, *options: str) -> Path:
    """Convert without faults, and where the dataset is."""
    assert main(["convert", name, *map(str, sources), "--raw", str(raw), *options]) == 0
    (folder,) = (found for found in raw.iterdir() if not found.name.startswith("."))
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Converted:
    return Converted(tmp_path_factory.mktemp("converted"))


every = pytest.mark.parametrize("name", DATASETS)


def test_every_data_set_has_a_miniature_release_and_expectations():
    assert set(BUILDERS) == set(FOLDERS) == set(CASES) == set(DATASETS)


@every
def test_the_description_is_nnunets(converted, name):
    title, channels, labels = FOLDERS[name]
    folder = converted(name)
    description = json.loads((folder / "dataset.json").read_text())
    assert folder.name == title
    assert description["channel_names"] == {str(k): channel for k, channel in enumerate(channels)}
    assert description["labels"] == labels
    assert next(iter(description["labels"])) == "background"
    assert description.get("regions_class_order") == ([1, 2, 3] if name in WITH_REGIONS else None)
    assert description.get("overwrite_image_reader_writer") == READERS.get(name)
    assert description["numTraining"] == len(CASES[name][0])
    assert description["file_ending"] == (".png" if name in PICTURES else ".nii.gz")


@every
def test_the_files_are_those_of_the_cases_and_no_others(converted, name):
    training, test, n_test_labels = CASES[name]
    folder = converted(name)
    ending = ".png" if name in PICTURES else ".nii.gz"
    channels = range(1 if name in PICTURES else len(FOLDERS[name][1]))
    for part, cases in (("Tr", training), ("Ts", test)):
        files = sorted(file.name for file in folder.glob(f"images{part}/*"))
        assert files == sorted(f"{case}_{c:04d}{ending}" for case in cases for c in channels)
    assert sorted(file.name for file in (folder / "labelsTr").iterdir()) == [
        f"{case}{ending}" for case in training
    ]
    test_labels = {file.name.removesuffix(ending) for file in folder.glob("labelsTs/*")}
    assert len(test_labels) == n_test_labels and test_labels <= set(test)
    assert {file.name for file in folder.iterdir()} - {"imagesTs", "labelsTs"} == {
        "imagesTr", "labelsTr", "dataset.json", "splits_final.json",
    }  # fmt: skip


@every
def test_folds_are_of_the_training_cases(converted, name):
    folds = json.loads((converted(name) / "splits_final.json").read_text())
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == CASES[name][0]


@every
def test_nnunet_finds_no_fault_in_it(converted, name, monkeypatch, capsys):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    without_processes(monkeypatch)
    verify_dataset_integrity(str(converted(name)), 1)
    said = capsys.readouterr().out
    assert "Error" not in said and "Warning" not in said


IN_BLOCKS = {  # a label file holds these values one after the other, as `blocks` has them
    "amos22_ct": ("amos_0410", range(16)),
    "amos22_ct_mr": ("amos_0600", range(14)),
    "amos22_mr": ("amos_0518", range(14)),
    "synapse": ("img0003", [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
    "synapse8": ("img0001", [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]),
    "acdc": ("patient090_frame04", range(4)),
    "msd_braintumour": ("BRATS_004", range(4)),
    "msd_braintumour_regions": ("BRATS_004", range(4)),
    "msd": ("hippocampus_006", range(3)),
    "brats21": ("BraTS2021_00495", [0, 2, 1, 3]),
    "brats23": ("BraTS-GLI-00008-001", [0, 2, 1, 3]),
    "flare22": ("FLARE22_Tr_0002", range(14)),
    "abdomen_mr": ("amos_0514", range(14)),
}


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_labels_of_volumes_are_the_specified_ones(converted, name):
    case, values = IN_BLOCKS[name]
    label = read_volume(converted(name) / "labelsTr" / f"{case}.nii.gz")
    assert np.array_equal(label, blocks(list(values)))


def test_labels_in_floats_are_taken_at_their_whole_numbers(converted):
    eight = read_volume(converted("synapse8") / "labelsTr" / "img0004.nii.gz")
    assert eight.dtype == np.uint8
    assert np.array_equal(eight, blocks([0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]))


SAME_BYTES = {
    "amos22_ct": ("amos22/imagesVa/amos_0409.nii.gz", "imagesTr/amos_0409_0000.nii.gz"),
    "amos22_mr": ("amos22/imagesTs/amos_0541.nii.gz", "imagesTs/amos_0541_0000.nii.gz"),
    "synapse": ("RawData/Training/img/img0002.nii.gz", "imagesTr/img0002_0000.nii.gz"),
    "synapse8": ("RawData/Testing/img/img0061.nii.gz", "imagesTs/img0061_0000.nii.gz"),
    "acdc": (
        "ACDC/database/training/patient090/patient090_frame11.nii.gz",
        "imagesTr/patient090_frame11_0000.nii.gz",
    ),
    "msd": ("Task04_Hippocampus/imagesTr/hippocampus_003.nii.gz", "imagesTr/hippocampus_003_0000.nii.gz"),
    "flare22": ("Tuning/images/FLARETs_0002_0000.nii.gz", "imagesTs/FLARETs_0002_0000.nii.gz"),
    "abdomen_mr": (
        "Dataset702_AbdomenMR/imagesTr/amos_0508_0000.nii.gz",
        "imagesTr/amos_0508_0000.nii.gz",
    ),
}


@pytest.mark.parametrize("name", SAME_BYTES)
def test_images_that_nnunet_can_read_are_the_same_bytes(converted, name):
    theirs, ours = SAME_BYTES[name]
    folder = converted(name)
    assert (folder / ours).read_bytes() == (converted.release(name) / theirs).read_bytes()


@pytest.mark.parametrize(
    ("name", "case", "files"),
    [
        ("brats21", "BraTS2021_00003", ("_t1", "_t1ce", "_t2", "_flair")),
        ("brats23", "BraTS-GLI-00008-000", ("-t1n", "-t1c", "-t2w", "-t2f")),
    ],
)
def test_channels_are_in_the_order_of_their_names(converted, name, case, files):
    folder = converted(name)
    for channel, ending in enumerate(files):
        (theirs,) = converted.release(name).rglob(f"{case}{ending}.nii.gz")
        assert (folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz").read_bytes() == theirs.read_bytes()


def test_a_4d_image_is_cut_into_channels_that_keep_their_place(converted):
    for channel in range(4):
        image = sitk.ReadImage(
            str(converted("msd_braintumour") / "imagesTr" / f"BRATS_003_{channel:04d}.nii.gz")
        )
        assert np.array_equal(sitk.GetArrayFromImage(image), scan(10 * 2 + channel))
        assert image.GetPixelID() == sitk.sitkInt16
        assert np.allclose(image.GetSpacing(), SPACING_MM)
        assert np.allclose(image.GetOrigin(), ORIGIN_MM, atol=1e-5)
        assert np.allclose(image.GetDirection(), DIRECTION, atol=1e-6)


def test_acdcs_spacing_is_that_of_its_scanner(converted):
    """Its sform says 1 x 1 x 1 mm; nnU-Net, told to use SimpleITK, trains with the true one."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    folder = converted("acdc")
    description = json.loads((folder / "dataset.json").read_text())
    file = str(folder / "imagesTr" / "patient001_frame01_0000.nii.gz")
    reader = determine_reader_writer_from_dataset_json(description, file)()
    assert reader.read_images([file])[1]["spacing"] == pytest.approx([10, 1.316, 1.316])


def test_acdcs_frames_are_told_by_info_cfg_and_not_by_their_order(converted):
    phases = json.loads((converted("acdc") / "dataset.json").read_text())["nnunet_mamba"]["phases"]
    assert (phases["patient090_frame11"], phases["patient090_frame04"]) == ("ED", "ES")
    assert (phases["patient101_frame01"], phases["patient101_frame10"]) == ("ED", "ES")


def test_patients_with_several_images_are_in_one_fold(converted):
    for name, n_letters in (("acdc", len("patient001")), ("brats23", len("BraTS-GLI-00008"))):
        for fold in json.loads((converted(name) / "splits_final.json").read_text()):
            assert not {c[:n_letters] for c in fold["train"]} & {c[:n_letters] for c in fold["val"]}


TYPES = {  # by video: the tools' types in the order of their folders, as the release's mapping has them
    1: (2, 1, 7, 2), 2: (2, 7, 2), 3: (3, 3), 4: (3, 3, 2), 5: (1, 5, 4), 6: (3, 6, 2, 3), 7: (1, 4),
    8: (1, 5, 6, 5),
}  # fmt: skip


@pytest.mark.parametrize("video", TYPES)
def test_tools_are_labelled_by_their_type(converted, video):
    """The field begins at row 28 and column 320: 100, 400 in the frame is 72, 80 in the label."""
    expected = np.zeros((1024, 1280), np.uint8)
    for k, number in enumerate(TYPES[video]):
        expected[72 + 200 * k : 172 + 200 * k, 80:480] = number
    folder = converted("endovis17")
    assert np.array_equal(read_picture(folder / "labelsTr" / f"video{video}_frame000.png"), expected)
    assert not read_picture(folder / "labelsTr" / f"video{video}_frame224.png").any()
    field = read_picture(folder / "imagesTr" / f"video{video}_frame000_0000.png")
    assert (field == (10 * video, 100, 200)).all()


@pytest.mark.parametrize("case", ["video1_frame225", "video10_frame299"])
def test_test_frames_take_the_releases_types_without_its_black_border(converted, case):
    expected = np.zeros((1024, 1280), np.uint8)
    expected[472:572, 80:780] = np.repeat(np.arange(1, 8), 100)
    assert np.array_equal(read_picture(converted("endovis17") / "labelsTs" / f"{case}.png"), expected)


def test_videos_are_in_one_fold(converted):
    for fold in json.loads((converted("endovis17") / "splits_final.json").read_text()):
        assert not {c.split("_")[0] for c in fold["train"]} & {c.split("_")[0] for c in fold["val"]}


def test_cells_are_an_interior_and_a_rim_of_two_pixels_inside_and_one_outside(converted):
    """Of 12 x 12 pixels, 8 x 8 are interior. Two cells that touch: 14 x 26 pixels without 4 corners are cell
    or rim. A speck of 3 x 3 is all rim: 5 x 5 without 4 corners."""
    label = read_picture(converted("cellseg") / "labelsTr" / "cell_00001.png")
    assert label.shape == PICTURE
    assert (label[12:20, 8:16] == 1).all() and (label[12:20, 20:28] == 1).all()
    assert (label == 1).sum() == 2 * 64
    assert (label[10:22, 16:20] == 2).all()
    assert (label == 2).sum() == (14 * 26 - 4 - 2 * 64) + (5 * 5 - 4)


def test_micrographs_of_any_depth_and_colour_become_three_channels_of_8_bits(converted):
    for n in range(1, 7):
        picture = read_picture(converted("cellseg") / "imagesTr" / f"cell_{n:05d}_0000.png")
        assert picture.shape == (*PICTURE, 3) and picture.dtype == np.uint8


def test_the_contrast_of_a_micrograph_is_stretched_whatever_its_depth(converted):
    """cell_00003 is noise of 100, 200, ... 25000: of its 1920 pixels, 1 % at either end are 0 or 255."""
    picture = read_picture(converted("cellseg") / "imagesTr" / "cell_00003_0000.png")
    assert (picture == picture[..., :1]).all()
    noise, stretched = photograph(3, PICTURE), picture[..., 0]
    order = np.argsort(noise, axis=None, kind="stable")
    assert (np.diff(stretched.ravel()[order].astype(int)) >= 0).all()
    for end in (0, 255):
        assert 15 <= (stretched == end).sum() <= 60


@pytest.mark.parametrize("name", ["isic17", "isic18"])
def test_skin_is_the_same_pixels_and_the_lesion_is_1(converted, name):
    folder = converted(name)
    (photo,) = converted.release(name).rglob("ISIC_0000003.jpg")
    assert np.array_equal(read_picture(folder / "imagesTr" / "ISIC_0000003_0000.png"), read_picture(photo))
    assert np.array_equal(read_picture(folder / "labelsTr" / "ISIC_0000003.png"), disc(1))


@pytest.mark.parametrize("other", OTHER_BUILDERS)
def test_the_same_data_by_another_way(converted, tmp_path, other):
    name, builder = OTHER_BUILDERS[other]
    folder, usual = convert(name, builder(tmp_path / "release"), tmp_path / "raw"), converted(name)
    assert folder.name == usual.name
    common = {file.name for file in (folder / "labelsTr").iterdir()} & {
        file.name for file in (usual / "labelsTr").iterdir()
    }
    assert len(common) >= 3
    for file in common:
        assert np.array_equal(*(values_of(one / "labelsTr" / file) for one in (folder, usual)))


def values_of(file: Path) -> np.ndarray:
    return read_picture(file) if file.suffix == ".png" else read_volume(file)


def test_brats23_without_compression_becomes_compressed(converted, tmp_path):
    """Some copies hold .nii."""
    (top,) = BUILDERS["brats23"](tmp_path / "release")
    for file in sorted(top.rglob("*.nii.gz")):
        sitk.WriteImage(sitk.ReadImage(str(file)), str(file.with_suffix("")))
        file.unlink()
    folder = convert("brats23", [top], tmp_path / "raw")
    usual = converted("brats23")
    for file in sorted(folder.glob("*Tr/*.nii.gz")):
        image, expected = (sitk.ReadImage(str(one / file.parent.name / file.name)) for one in (folder, usual))
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
        assert np.allclose(image.GetOrigin(), expected.GetOrigin())


def test_validation_cases_of_brats_have_no_labels_and_go_to_the_test(tmp_path):
    (top,) = BUILDERS["brats21"](tmp_path / "release")
    folder = convert("brats21", [tmp_path / "release"], tmp_path / "both")
    n_training = len(list((folder / "labelsTr").iterdir()))
    tests = {file.name[:15] for file in (folder / "imagesTs").iterdir()}
    assert tests and not (folder / "labelsTs").exists()
    alone = convert("brats21", [top], tmp_path / "alone")
    assert len(list((alone / "labelsTr").iterdir())) == n_training and not (alone / "imagesTs").exists()


BRATS_TOP = "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData"


@pytest.mark.parametrize(
    ("name", "top"),
    [
        *((name, "") for name in ("acdc", "synapse", "amos22_ct", "msd", "flare22", "isic17")),
        ("acdc", "ACDC"),
        ("acdc", "ACDC/database"),
        ("brats23", f"{BRATS_TOP}/{BRATS_TOP}"),
    ],
)
def test_the_parent_or_the_inner_folder_will_do(converted, tmp_path, name, top):
    build(name, tmp_path / "release")
    folder = convert(name, [tmp_path / "release" / top], tmp_path / "raw")
    assert (folder / "splits_final.json").read_text() == (converted(name) / "splits_final.json").read_text()


def test_parts_of_cellseg_may_be_given_by_themselves(converted, tmp_path):
    (top,) = BUILDERS["cellseg"](tmp_path / "release")
    folder = convert("cellseg", [top / "Training-labeled", top / "Tuning"], tmp_path / "raw")
    assert len(list((folder / "imagesTs").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "builder", "split", "sizes"),
    [
        ("synapse", lambda f: btcv(f, ALL_BTCV), "transunet", (30, 12 + 2)),
        ("synapse8", lambda f: btcv(f, ALL_BTCV), "unetr", (30, 2)),
        ("acdc", lambda f: acdc(f, range(1, 101), range(101, 103)), "mamba_unet", (200, 40 + 4)),
        pytest.param(
            "msd_braintumour",
            lambda f: brain_tumour(f, 484),
            "nnformer",
            (484, 24 + 2),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_published_splits_move_their_test_cases_to_images_ts(tmp_path, name, builder, split, sizes):
    folder = convert(name, builder(tmp_path / "release"), tmp_path / "raw", "--split", split)
    n_labelled, n_test = sizes
    test = {file.name.rsplit("_", 1)[0] for file in folder.glob("imagesTs/*")}
    training = {file.name.removesuffix(".nii.gz") for file in folder.glob("labelsTr/*")}
    folds = json.loads((folder / "splits_final.json").read_text())
    n_moved = len(json.loads((folder / "dataset.json").read_text()).get("nnunet_mamba", {}).get("moved", ()))
    assert (len(test), len(training)) == (n_test, n_labelled - n_moved)
    for fold in folds:
        assert {*fold["train"], *fold["val"]} == training


@pytest.mark.parametrize(
    ("number", "name", "convert_theirs"),
    [
        (218, "amos22_ct", "Dataset218_Amos2022_task1.convert_amos_task1"),
        (219, "amos22_ct_mr", "Dataset219_Amos2022_task2.convert_amos_task2"),
    ],
)
def test_amos_equals_what_nnunets_own_converter_writes(
    converted, nnunet_folders, tmp_path, number, name, convert_theirs
):
    """But for the spelling of the release's "arota"."""
    (top,) = build(name, tmp_path / "release")
    stock(convert_theirs)(str(top))
    theirs = next(nnunet_folders.raw.glob(f"Dataset{number}_*"))
    description = assert_same_dataset(converted(name), theirs)
    assert description["overwrite_image_reader_writer"] == "NibabelIOWithReorient"


@pytest.mark.parametrize(("name", "builder"), [("msd", hippocampus), ("msd_braintumour", brain_tumour)])
def test_a_decathlon_task_equals_what_nnunets_own_converter_writes(
    converted, nnunet_folders, tmp_path, monkeypatch, name, builder
):
    without_processes(monkeypatch)
    stock("convert_MSD_dataset.convert_msd_dataset")(str(builder(tmp_path / "release")[0]), num_processes=1)
    (theirs,) = nnunet_folders.raw.iterdir()
    assert_same_dataset(converted(name), theirs)


def stock(name: str):
    """A function of nnU-Net's converters."""
    from importlib import import_module

    module, function = name.split(".")
    return getattr(import_module(f"nnunetv2.dataset_conversion.{module}"), function)


def assert_same_dataset(ours: Path, theirs: Path) -> dict:
    """The same files, voxel for voxel, and the same labels and channels; returns their description."""
    descriptions = [json.loads((folder / "dataset.json").read_text()) for folder in (ours, theirs)]
    assert descriptions[0]["channel_names"] == descriptions[1]["channel_names"]
    spelt = {
        name.replace("arota", "aorta").replace("tumour", "tumor"): v
        for name, v in descriptions[1]["labels"].items()
    }
    assert descriptions[0]["labels"] == spelt
    assert descriptions[0]["numTraining"] == descriptions[1]["numTraining"]
    assert ours.name == theirs.name
    files = [
        sorted(file.relative_to(folder) for file in folder.glob("*T[rs]/*")) for folder in (ours, theirs)
    ]
    assert files[0] == files[1]
    for file in files[0]:
        images = [sitk.ReadImage(str(folder / file)) for folder in (ours, theirs)]
        assert np.array_equal(*map(sitk.GetArrayFromImage, images))
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert np.allclose(*(getattr(image, what)() for image in images), atol=1e-5)
    return descriptions[1]


def test_nnunets_own_converter_for_acdc_still_crashes_where_ours_does_not(nnunet_folders, tmp_path):
    """2.8.1: '_EnvPath' has no attribute 'replace'. Once this fails, compare with it as with AMOS."""
    build("acdc", tmp_path)
    with pytest.raises(AttributeError, match="replace"):
        stock("Dataset027_ACDC.convert_acdc")(str(tmp_path / "ACDC" / "database"))


def test_brats_labels_are_those_of_nnunets_own_converter(converted, tmp_path):
    ours = converted("brats21") / "labelsTr" / "BraTS2021_00005.nii.gz"
    (theirs,) = converted.release("brats21").rglob("BraTS2021_00005_seg.nii.gz")
    stock("Dataset137_BraTS21.copy_BraTS_segmentation_and_convert_labels_to_nnUNet")(
        str(theirs), str(tmp_path / "label.nii.gz")
    )
    assert np.array_equal(read_volume(ours), read_volume(tmp_path / "label.nii.gz"))


@pytest.mark.parametrize("name", ["AMOS22", "Synapse8", "NeurIPS-cell", "brats2024"])
def test_names_and_aliases(name):
    if name == "brats2024":
        with pytest.raises(ValueError, match=r"Unknown data set 'brats2024'. .*Choose one of amos22_ct, "):
            get_spec(name)
    else:
        assert get_spec(name)[0] in DATASETS


def test_no_two_data_sets_share_a_number_or_a_name():
    numbers = [spec.number for spec in DATASETS.values() if spec.number]
    names = [name for known, spec in DATASETS.items() for name in (known, *spec.aliases)]
    assert len(numbers) == len(set(numbers)) and len(names) == len(set(names))


def test_another_releases_folder_is_answered_with_the_expected_layout(tmp_path, capsys):
    build("synapse", tmp_path)
    assert main(["convert", "amos22_ct", str(tmp_path), "--raw", str(tmp_path / "raw")]) == 2
    said = capsys.readouterr().err
    assert "expected imagesTr/<case>.nii.gz" in said and "zenodo.org/records/7262581" in said
    assert "RawData/Testing/img/img0061.nii.gz" in said


def test_another_decathlon_task_is_not_brain_tumour(tmp_path, capsys):
    hippocampus(tmp_path)
    assert main(["convert", "msd_braintumour", str(tmp_path), "--raw", str(tmp_path / "raw")]) == 2
    assert "is Dataset004_Hippocampus, with other labels than" in capsys.readouterr().err
