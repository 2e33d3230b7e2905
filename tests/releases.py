"""Miniature releases: each data set's folders and file names as its publishers have them, with tiny images.

`build(name, folder)` makes one below `folder` and returns what a user gives to `convert`. Volumes hold every
label of the release, in blocks; side files that are no cases lie where the release has them.
"""

import gzip
import json
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
from tiny_files import (
    PICTURE,
    blocks,
    disc,
    label_bytes,
    photograph,
    picture_bytes,
    put,
    scan,
    scan_bytes,
    write_picture,
)

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X"
ALL_BTCV = (*range(1, 11), *range(21, 41))
N_DISTINCT = 6  # files that differ; more cases repeat them


def build(name: str, folder: Path) -> list[Path]:
    return BUILDERS[name](folder)


def put_pair(image: Path, label: Path | None, seed: int, values: Iterable[int], dtype: str = "int16") -> None:
    """An image and the label file beside which it lies."""
    put(image, scan_bytes(seed % N_DISTINCT, dtype))
    if label:
        put(label, label_bytes(tuple(values)))


AMOS_NAMES = (
    "background", "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach",
    "arota", "postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder",
    "prostate/uterus",
)  # fmt: skip
AMOS_CASES = {
    "Tr": (1, 4, 5, 6, 410, 507, 508, 510, 600),
    "Va": (8, 13, 409, 517, 518),
    "Ts": (2, 3, 500, 541, 555),
}


def amos(folder: Path) -> list[Path]:
    """amos22.zip: CT up to amos_0500, MR above, which lack bladder and prostate."""
    top = folder / "amos22"
    for part, numbers in AMOS_CASES.items():
        for number in numbers:
            name = f"amos_{number:04d}.nii.gz"
            label = None if part == "Ts" else top / f"labels{part}" / name
            put_pair(top / f"images{part}" / name, label, number, range(16 if number <= 500 else 14))
            put(folder / "__MACOSX" / "amos22" / f"images{part}" / f"._{name}", APPLE_DOUBLE)
    pairs = {
        part: [{kind: f"./{kind}s{part}/amos_{n:04d}.nii.gz" for kind in ("image", "label")} for n in numbers]
        for part, numbers in AMOS_CASES.items()
    }
    description = {
        "name": "AMOS",
        "description": "Abdominal Multi Organ Segmentation",
        "tensorImageSize": "3D",
        "reference": "https://amos22.grand-challenge.org",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(AMOS_NAMES)},
        "numTraining": len(AMOS_CASES["Tr"]),
        "numTest": len(AMOS_CASES["Ts"]),
        "training": pairs["Tr"],
        "validation": pairs["Va"],
        "test": [{"image": pair["image"]} for pair in pairs["Ts"]],
    }
    put(top / "dataset.json", json.dumps(description))
    put(top / "readme.md", "AMOS")
    put(folder / "labeled_data_meta_0000_0599.csv", "amos_id,Patient's Sex\n1,M\n")
    return [top]


def btcv(folder: Path, numbers: Iterable[int] = (1, 2, 3, 4, 5, 21)) -> list[Path]:
    """RawData.zip of Synapse. Case 3 lacks the gallbladder (4), case 4 is labelled in float."""
    top = folder / "RawData"
    for number in numbers:
        values = [value for value in range(14) if (number, value) != (3, 4)]
        put_pair(
            top / "Training" / "img" / f"img{number:04d}.nii.gz",
            top / "Training" / "label" / f"label{number:04d}.nii.gz",
            number,
            values,
        )
    if 4 in numbers:
        put(top / "Training" / "label" / "label0004.nii.gz", label_bytes(tuple(range(14)), "float32"))
    for number in (61, 62):
        put(top / "Testing" / "img" / f"img{number:04d}.nii.gz", scan_bytes(number % N_DISTINCT))
    return [top]


HEART_AFFINE = np.diag((-1.316, -1.316, 10.0, 1.0))


def heart_bytes(array: np.ndarray) -> bytes:
    """A file of ACDC: its sform is diag(-1, -1, 1), the spacing is in qform and pixdim only."""
    axes = array.transpose(range(array.ndim)[::-1])  # nibabel's are x, y, z, t
    image = nibabel.Nifti1Image(axes, None)
    image.set_qform(HEART_AFFINE, code=1)
    image.set_sform(np.diag((-1.0, -1.0, 1.0, 1.0)), code=1)
    return gzip.compress(image.to_bytes(), 1, mtime=0)


def heart_frames(patient: int) -> tuple[int, int]:
    """ED and ES; patient 90's systole comes first."""
    return (11, 4) if patient == 90 else (1, 9 + patient % 5)


def acdc(folder: Path, training: Iterable[int] = (1, 2, 3, 4, 90), testing: Iterable[int] = (101, 102)):
    """ACDC.zip: ACDC/database/{training,testing}/patient###."""
    scans = [heart_bytes(scan(seed)) for seed in range(N_DISTINCT)]
    truth, cine = heart_bytes(blocks(range(4))), heart_bytes(np.stack([scan(0), scan(1)]))
    database = folder / "ACDC" / "database"
    put(database / "MANDATORY_CITATION.md", "O. Bernard et al.")
    put(database / "training" / "MANDATORY_CITATION.md", "O. Bernard et al.")
    for part, patients in (("training", training), ("testing", testing)):
        for number in patients:
            patient, (ed, es) = f"patient{number:03d}", heart_frames(number)
            home = database / part / patient
            put(home / "MANDATORY_CITATION.md", "O. Bernard et al.")
            put(home / "Info.cfg", heart_info(ed, es))
            put(home / f"{patient}_4d.nii.gz", cine)
            for frame in (ed, es):
                put(home / f"{patient}_frame{frame:02d}.nii.gz", scans[(number + frame) % N_DISTINCT])
                put(home / f"{patient}_frame{frame:02d}_gt.nii.gz", truth)
    return [folder / "ACDC"]


def heart_info(ed: int, es: int) -> str:
    return f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0"


def decathlon(folder: Path, task: str, training: list[str], test: list[str], **description) -> list[Path]:
    """A task's tar: dataset.json in the Decathlon's form, and what a Mac has left in each folder."""
    top = folder / task
    n_channels = len(description["modality"]) if len(description["modality"]) > 1 else 0
    dtype = "int16" if n_channels else "float32"
    for k, name in enumerate((*training, *test)):
        part = "Ts" if name in test else "Tr"
        put(top / f"images{part}" / f"{name}.nii.gz", scan_bytes(k % N_DISTINCT, dtype, n_channels))
        if part == "Tr":
            values = tuple(range(len(description["labels"])))
            put(top / "labelsTr" / f"{name}.nii.gz", label_bytes(values))
    for part, name in (("imagesTr", training[0]), ("labelsTr", training[0]), ("imagesTs", test[0])):
        put(top / part / f"._{name}.nii.gz", APPLE_DOUBLE)
    put(
        top / "dataset.json",
        json.dumps(
            {
                "licence": "CC-BY-SA 4.0",
                "reference": "https://medicaldecathlon.com",
                "release": "2.0 04/05/2018",
                "tensorImageSize": "4D" if n_channels else "3D",
                **description,
                "numTraining": len(training),
                "numTest": len(test),
                "training": [
                    {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
                    for name in training
                ],
                "test": [f"./imagesTs/{name}.nii.gz" for name in test],
            }
        ),
    )
    return [top]


def brain_tumour(folder: Path, n_training: int = 6) -> list[Path]:
    return decathlon(
        folder,
        "Task01_BrainTumour",
        [f"BRATS_{n:03d}" for n in range(1, n_training + 1)],
        ["BRATS_485", "BRATS_486"],
        name="BRATS",
        description="Gliomas segmentation tumour and oedema in brain images",
        modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        labels={"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
    )


def hippocampus(folder: Path) -> list[Path]:
    return decathlon(
        folder,
        "Task04_Hippocampus",
        [f"hippocampus_{n:03d}" for n in (1, 3, 4, 6, 7, 8)],
        [f"hippocampus_{n:03d}" for n in (2, 5)],
        name="Hippocampus",
        description="Left and right hippocampus segmentation",
        modality={"0": "MRI"},
        labels={"0": "background", "1": "Anterior", "2": "Posterior"},
    )


def brats(
    top: Path, cases: Iterable[str], sign: str, channels: Iterable[str], values: tuple[int, ...]
) -> Path:
    """CASE/CASE{sign}{channel}.nii.gz, and seg, unless there are no values."""
    for k, case in enumerate(cases):
        for c, channel in enumerate(channels):
            put(top / case / f"{case}{sign}{channel}.nii.gz", scan_bytes(k * 4 + c))
        if values:
            put(top / case / f"{case}{sign}seg.nii.gz", label_bytes(values))
    return top


BRATS21 = ("flair", "t1", "t1ce", "t2"), (0, 1, 2, 4)
BRATS23 = ("t1n", "t1c", "t2w", "t2f"), (0, 1, 2, 3)
BRATS21_CASES = [f"BraTS2021_{n:05d}" for n in (0, 2, 3, 5, 495, 621)]


def brats21(folder: Path) -> list[Path]:
    """Synapse's zips for training and validation, the latter without labels."""
    name, (channels, values) = "RSNA_ASNR_MICCAI_BraTS2021_", BRATS21
    brats(folder / f"{name}ValidationData", ["BraTS2021_00001"], "_", channels, ())
    put(folder / "BraTS21-17_Mapping.csv", "BraTS2021,Site No\n")
    return [brats(folder / f"{name}TrainingData", BRATS21_CASES, "_", channels, values)]


def brats21_kaggle(folder: Path) -> list[Path]:
    """Three tars without a top folder, two of them with one case each."""
    tops = [folder / "BraTS2021_Training_Data", folder / "BraTS2021_00495", folder / "BraTS2021_00621"]
    for top, cases in zip(tops, (BRATS21_CASES[:4], BRATS21_CASES[4:5], BRATS21_CASES[5:]), strict=True):
        brats(top, cases, "_", *BRATS21)
    return tops


def brats23(folder: Path) -> list[Path]:
    """Patient 00008 has two time points."""
    name, (channels, values) = "ASNR-MICCAI-BraTS2023-GLI-Challenge-{}Data", BRATS23
    cases = [
        f"BraTS-GLI-{case}" for case in ("00000-000", "00002-000", "00003-000", "00008-000", "00008-001")
    ]
    top = folder / name.format("Training")
    brats(top / top.name, cases, "-", channels, values)  # doubled, as unpackers do
    brats(folder / name.format("Validation"), ["BraTS-GLI-00001-000"], "-", channels, ())
    put(folder / "BraTS2023_2017_GLI_Mapping.xlsx", b"PK")
    return [top]


def flare22(folder: Path) -> list[Path]:
    """FLARE22Train.zip and the tuning cases, which serve as test."""
    for top, name, numbers in (("FLARE22Train", "FLARE22_Tr", range(1, 7)), ("Tuning", "FLARETs", (1, 2))):
        for n in numbers:
            image = folder / top / "images" / f"{name}_{n:04d}_0000.nii.gz"
            put_pair(image, folder / top / "labels" / f"{name}_{n:04d}.nii.gz", n, range(14))
    return [folder / "FLARE22Train", folder / "Tuning"]


def umamba(folder: Path, name: str, channel: str, training: list[str], test: list[str]) -> list[Path]:
    """A volume data set of U-Mamba's download, in nnU-Net's layout."""
    for part, cases in (("Tr", training), ("Ts", test)):
        for k, case in enumerate(cases):
            image = folder / name / f"images{part}" / f"{case}_0000.nii.gz"
            put_pair(image, folder / name / f"labels{part}" / f"{case}.nii.gz", k, range(14))
    description = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, **{f"organ {n}": n for n in range(1, 14)}},
        "numTraining": 50,
        "file_ending": ".nii.gz",
    }
    put(folder / name / "dataset.json", json.dumps(description))
    return [folder / name]


def abdomen_mr(folder: Path) -> list[Path]:
    training, test = (507, 508, 510, 514, 517), (540, 541)
    names = ([f"amos_{n:04d}" for n in numbers] for numbers in (training, test))
    return umamba(folder, "Dataset702_AbdomenMR", "MR", *names)


def flare22_of_umamba(folder: Path) -> list[Path]:
    training, test = [f"FLARE22_Tr_{n:04d}" for n in range(1, 6)], ["FLARETs_0001", "FLARETs_0002"]
    return umamba(folder, "Dataset701_AbdomenCT", "CT", training, test)


VIDEO = (1080, 1920)
TOOLS = {
    1: ("Left_Prograsp_Forceps_labels", "Maryland_Bipolar_Forceps_labels", "Other_labels",
        "Right_Prograsp_Forceps_labels"),
    2: ("Left_Prograsp_Forceps_labels", "Other_labels", "Right_Prograsp_Forceps_labels"),
    3: ("Left_Large_Needle_Driver_labels", "Right_Large_Needle_Driver_labels"),
    4: ("Large_Needle_Driver_Left_labels", "Large_Needle_Driver_Right_labels", "Prograsp_Forceps_labels"),
    5: ("Bipolar_Forceps_labels", "Grasping_Retractor_labels", "Vessel_Sealer_labels"),
    6: ("Left_Large_Needle_Driver_labels", "Monopolar_Curved_Scissors_labels", "Prograsp_Forceps",
        "Right_Large_Needle_Driver_labels"),
    7: ("Left_Bipolar_Forceps", "Right_Vessel_Sealer"),
    8: ("Bipolar_Forceps_labels", "Left_Grasping_Retractor_labels", "Monopolar_Curved_Scissors_labels",
        "Right_Grasping_Retractor_labels"),
}  # fmt: skip


@cache
def tool_mask(k: int, *, colours: bool = False) -> bytes:
    """A .png: rows 100 + 200 k and 100 more, columns 400 to 800, in the values of shaft, wrist, claspers and
    probe; none for k = -1."""
    mask = np.zeros(VIDEO, np.uint8)
    if k >= 0:
        mask[100 + 200 * k : 200 + 200 * k, 400:800] = np.repeat([10, 20, 30, 40], 100)
    return picture_bytes(np.stack([mask] * 3, -1) if colours else mask)


@cache
def frame(video: int) -> bytes:
    """A .png: black, but for the camera's field, whose colour tells the video."""
    picture = np.zeros((*VIDEO, 3), np.uint8)
    picture[28:1052, 320:1600] = (10 * video, 100, 200)
    return picture_bytes(picture)


@cache
def type_mask(kind: str) -> bytes:
    """A .png: the seven types, side by side from column 400 on, 100 columns each, in rows 500 to 600, as the
    release's folder `kind` has them."""
    mask = np.zeros(VIDEO, np.uint8)
    mask[500:600, 400:1100] = np.repeat(np.arange(1, 8), 100)
    drawn = {
        "TypeSegmentation": mask,
        "TypeSegmentationRescaled": mask * 32,
        "BinarySegmentation": (mask > 0) * np.uint8(255),
        "PartsSegmentation": (mask > 0) * np.uint8(30),
    }
    return picture_bytes(drawn[kind])


def endovis17(folder: Path) -> list[Path]:
    """Folders of the challenge's downloads, unpacked. The last mask of video 4 is in colours."""
    for video in range(1, 9):
        part = "instrument_1_4" if video < 5 else "instrument_5_8"
        _training_video(folder / f"{part}_training" / f"instrument_dataset_{video}", video)
        _test_video(folder, part, video, "frame225")
    for video, name in ((9, "frame000"), (10, "frame299")):
        _test_video(folder, "instrument_9_10", video, name)
    put(folder / "instrument_1_4_training" / "instrument_type_mapping.json", json.dumps({"Other": 7}))
    return [folder]


def keep_three_videos(release: Path) -> None:
    """Remove all videos of a release of EndoVis but the first three."""
    for folder in list(release.rglob("instrument_dataset_*")):
        if not folder.name.endswith(("_1", "_2", "_3")):
            shutil.rmtree(folder)


def _training_video(home: Path, video: int) -> None:
    """The first and the last frame. In the last, the tools are out of sight."""
    put(home / "mappings.json", json.dumps({"Shaft": 10}))
    put(home / "camera_calibration.txt", "Camera-0-F: 1068.4")
    for name in ("frame000.png", "frame224.png"):
        put(home / "left_frames" / name, frame(video))
        put(home / "right_frames" / name, frame(0))
    for k, tool in enumerate(TOOLS[video]):
        colours = video == 4 and k == 2
        put(home / "ground_truth" / tool / "frame000.png", tool_mask(k, colours=colours))
        put(home / "ground_truth" / tool / "frame224.png", tool_mask(-1))


def _test_video(folder: Path, part: str, video: int, name: str) -> None:
    file = f"{name}.png"
    images = folder / f"{part}_testing" / f"instrument_dataset_{video}" / "left_frames"
    put(images / file, frame(video))
    put(images / f"._{file}", APPLE_DOUBLE)
    truth = folder / "instrument_2017_test" / "instrument_2017_test" / f"instrument_dataset_{video}"
    for kind in ("BinarySegmentation", "PartsSegmentation", "TypeSegmentation", "TypeSegmentationRescaled"):
        put(truth / kind / file, type_mask(kind))


def two_cells() -> np.ndarray:
    """Two squares of 12 x 12 pixels that touch between columns 17 and 18, and a speck of 3 x 3, as 16-bit
    instance numbers."""
    instances = np.zeros(PICTURE, np.uint16)
    instances[10:22, 6:18] = 1
    instances[10:22, 18:30] = 300
    instances[30:33, 40:43] = 7
    return instances


CELLS = {  # file -> how it is saved
    "cell_00001.bmp": photograph(1),
    "cell_00002.png": np.dstack([photograph(2), np.full(PICTURE, 255, np.uint8)]),
    "cell_00003.tif": photograph(3, PICTURE, np.uint16) * 100,
    "cell_00004.tiff": photograph(4),
    "cell_00005.jpg": photograph(5),
    "cell_00006.png": photograph(6, PICTURE),
}


def cellseg(folder: Path) -> list[Path]:
    """Training-labeled.zip, Tuning.zip and Testing.zip, whose osilab_seg are predictions."""
    for name, picture in CELLS.items():
        _cell(folder / "Training-labeled", name, picture)
    put(folder / "Training-labeled" / "images" / "Thumbs.db")
    for number in (1, 2):
        _cell(folder / "Tuning", f"cell_{number:05d}.png", photograph(10 + number))
    public, hidden = folder / "Testing" / "Public", folder / "Testing" / "Hidden"
    _cell(public, "OpenTest_001.png", photograph(20))
    write_picture(public / "1st_osilab_seg" / "OpenTest_001_label.tiff", two_cells())
    write_picture(hidden / "images" / "TestHidden_001.png", photograph(21))
    write_picture(hidden / "osilab_seg" / "TestHidden_001_label.tiff", two_cells())
    return [folder]


def _cell(top: Path, name: str, picture: np.ndarray) -> None:
    write_picture(top / "images" / name, picture)
    write_picture(top / "labels" / f"{Path(name).stem}_label.tiff", two_cells())


def isic(folder: Path, data: str, truth: str, test: str, numbers: dict[str, Iterable[int]]) -> list[Path]:
    tops = []
    for part, name in (("Training", "Training"), ("Validation", "Validation"), ("Test", test)):
        pictures, masks = folder / data.format(name), folder / truth.format(name)
        for n in numbers[part]:
            write_picture(pictures / f"ISIC_{n:07d}.jpg", photograph(n % 1000))
            write_picture(masks / f"ISIC_{n:07d}_segmentation.png", disc())
        tops += [pictures, masks]
    return tops


def isic17(folder: Path) -> list[Path]:
    """Six archives; superpixels and metadata lie beside the pictures."""
    numbers = {"Training": (0, 1, 2, 3, 10000), "Validation": (1769, 1770), "Test": (12086, 12092)}
    tops = isic(folder, "ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth", "Test_v2", numbers)
    for top, part in zip(tops[::2], numbers, strict=True):
        for n in numbers[part]:
            write_picture(top / f"ISIC_{n:07d}_superpixels.png", photograph(n % 1000 + 1))
        put(top / f"{top.name}_metadata.csv", "image_id,age_approximate,sex\n")
    return tops


def isic18(folder: Path) -> list[Path]:
    numbers = {"Training": (0, 1, 3, 4, 6), "Validation": (12255, 12346), "Test": (12169, 12236)}
    tops = isic(folder, "ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth", "Test", numbers)
    for top in tops:
        put(top / "LICENSE.txt", "CC-0")
        put(top / "ATTRIBUTION.txt", "Codella et al.")
    return tops


def isic_of_malunet(folder: Path, year: int = 17) -> list[Path]:
    """The archive that VM-UNet uses: data/isic17/{train,val}/{images,masks}."""
    for part, numbers in (("train", (0, 1, 2, 3)), ("val", (1769, 1770))):
        for n in numbers:
            top = folder / "data" / f"isic{year}" / part
            write_picture(top / "images" / f"ISIC_{n:07d}.png", photograph(n % 1000))
            write_picture(top / "masks" / f"ISIC_{n:07d}.png", disc())
    return [folder / "data" / f"isic{year}"]


BUILDERS = {
    "amos22_ct": amos,
    "amos22_ct_mr": amos,
    "amos22_mr": amos,
    "synapse": btcv,
    "synapse8": btcv,
    "acdc": acdc,
    "msd_braintumour": brain_tumour,
    "msd_braintumour_regions": brain_tumour,
    "msd": hippocampus,
    "brats21": brats21,
    "brats23": brats23,
    "flare22": flare22,
    "abdomen_mr": abdomen_mr,
    "endovis17": endovis17,
    "cellseg": cellseg,
    "isic17": isic17,
    "isic18": isic18,
}
OTHER_BUILDERS = {  # the same data by another way
    "brats21_kaggle": ("brats21", brats21_kaggle),
    "flare22_of_umamba": ("flare22", flare22_of_umamba),
    "isic17_of_malunet": ("isic17", isic_of_malunet),
    "isic18_of_malunet": ("isic18", lambda folder: isic_of_malunet(folder, 18)),
}
