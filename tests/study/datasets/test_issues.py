"""Damaged downloads: each kind of fault made by hand, what the command says and keeps, how one goes on."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from releases import ALL_BTCV, BUILDERS, brats23, btcv, heart_info, hippocampus
from tiny_files import (
    PICTURE,
    SHAPE,
    affine,
    blocks,
    disc,
    label_bytes,
    photograph,
    put,
    read_volume,
    scan,
    scan_bytes,
    write_nifti,
    write_picture,
    write_volume,
)

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.source import ACCEPTABLE, KINDS


@dataclass(frozen=True)
class Damage:
    """Damage to one file of a release, and its consequences.

    file   within the release; fixed by putting its bytes back, or by removing what was not there
    case   that is faulty; it is named, and so is `says`
    """

    release: str
    file: str
    do: Callable[[Path], object]
    kind: str
    case: str
    says: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.release}-{getattr(self.do, '__name__', 'partial')}"


def cut(part: float, file: Path) -> None:
    """Keep this part of the bytes; negative: as many bytes less."""
    data = file.read_bytes()
    file.write_bytes(data[: int(part) if part < 0 else int(len(data) * part)])


def named(name: str, do: Callable[..., object], *arguments: object) -> Callable[[Path], object]:
    """`do` with its first arguments, under a name for the test's id."""
    action = partial(do, *arguments)
    action.__name__ = name  # type: ignore[attr-defined]
    return action


cut_in_half = named("cut_in_half", cut, 0.5)
cut_by_8_bytes = named("cut_by_8_bytes", cut, -8)
emptied = named("emptied", cut, 0.0)
replaced = named("no_image", lambda file: file.write_text("<html>404 Not Found</html>"))


def volume(name: str, array: np.ndarray, **grid) -> Callable[[Path], object]:
    return named(name, lambda file: write_volume(file, array, **grid))


def picture(name: str, array: np.ndarray) -> Callable[[Path], object]:
    return named(name, lambda file: write_picture(file, array))


def with_one(value: float, dtype: type = np.float32) -> np.ndarray:
    """`blocks` of the labels 0 to 13, whose last voxel is `value`."""
    labels = blocks(range(14), dtype=dtype)
    labels[-1, -1, -1] = value
    return labels


def scan_with(value: float) -> np.ndarray:
    image = scan(1, np.float32)
    image[3, 4, 5] = value
    return image


def listed_twice(file: Path) -> None:
    _list(file, "hippocampus_003")


def _list(file: Path, name: str) -> None:
    """One more pair in the list of a Decathlon task."""
    description = json.loads(file.read_text())
    pair = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
    description["training"].append(pair)
    file.write_text(json.dumps(description))


def contradiction(file: Path) -> None:
    """A sform that is turned against the qform, in a file that ITK still reads on the old grid."""
    rewritten(file, sform=affine(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), sform_code=2)


def pixdim_of_another_size(file: Path) -> None:
    rewritten(file, qform=None, sform=affine(spacing=(1.6, 1.8, 5.0)), sform_code=1)


def flipped_for_nibabel(file: Path) -> None:
    """Both forms flipped: the label lies turned against its image for ITK and for nibabel."""
    flipped = affine() @ np.diag((-1, 1, 1, 1))
    rewritten(file, qform=flipped, sform=flipped)


def rewritten(file: Path, **forms) -> None:
    write_nifti(file, read_volume(file), **{"qform": affine(), "sform": affine(), **forms})


def coloured_volume(file: Path) -> None:
    _as_dtype(file, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def complex_volume(file: Path) -> None:
    _as_dtype(file, np.dtype(np.complex64))


def _as_dtype(file: Path, dtype: np.dtype) -> None:
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, dtype), image.affine), file)


def emptied_folder(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def vanished_pair(file: Path) -> None:
    """An image and, where it has one, its label."""
    file.unlink()
    (file.parents[1] / file.parent.name.replace("images", "labels") / file.name).unlink(missing_ok=True)


def removed(file: Path) -> None:
    file.unlink()


def added(file: Path) -> None:
    put(file, label_bytes(tuple(range(14))))


def a_copy_of_its_kin(file: Path) -> None:
    """A label and an image in the validation part, named as a training case."""
    put(file, scan_bytes(0))
    put(file.parents[1] / "labelsVa" / file.name, label_bytes(tuple(range(16))))


def info_without_the_frame(file: Path) -> None:
    file.write_text(heart_info(1, 99))


FLARE_IMAGE = "FLARE22Train/images/FLARE22_Tr_0002_0000.nii.gz"
FLARE_LABEL = "FLARE22Train/labels/FLARE22_Tr_0002.nii.gz"
BRATS = "RSNA_ASNR_MICCAI_BraTS2021_TrainingData/BraTS2021_00003/BraTS2021_00003_{}.nii.gz"
TASK, TUMOUR = "Task04_Hippocampus", "Task01_BrainTumour"
SKIN_IMAGE = "ISIC2018_Task1-2_Training_Input/ISIC_0000003.jpg"
SKIN_LABEL = "ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png"
CELL_IMAGE, CELL_LABEL = (
    "Training-labeled/images/cell_00003.tif",
    "Training-labeled/labels/cell_00003_label.tiff",
)
HEART = "ACDC/database/training/patient002/"

flare_image = partial(Damage, "flare22", FLARE_IMAGE, case="FLARE22_Tr_0002")
flare_label = partial(Damage, "flare22", FLARE_LABEL, case="FLARE22_Tr_0002")
brats = partial(Damage, "brats21", case="BraTS2021_00003")
task = partial(Damage, "msd", case="hippocampus_003")
skin_image = partial(Damage, "isic18", SKIN_IMAGE, case="ISIC_0000003")
skin_label = partial(Damage, "isic18", SKIN_LABEL, case="ISIC_0000003")

UNREADABLE = [
    *(
        make(do, "unreadable", says=f"{name} cannot be read as an image")
        for make, name in (
            (flare_image, "Tr_0002_0000.nii.gz"),
            (flare_label, "labels/FLARE22_Tr_0002.nii.gz"),
        )
        for do in (cut_in_half, cut_by_8_bytes, emptied, replaced)
    ),
    *(
        make(do, "unreadable", says=f"{name} cannot be read as an image")
        for make, name in ((skin_image, "ISIC_0000003.jpg"), (skin_label, "ISIC_0000003_segmentation.png"))
        for do in (cut_in_half, emptied, replaced)
    ),
    *(
        Damage(
            "cellseg", file, do, "unreadable", "cell_00003", f"{Path(file).name} cannot be read as an image"
        )
        for file in (CELL_IMAGE, CELL_LABEL)
        for do in (cut_in_half, emptied, replaced)
    ),
    task(f"{TASK}/imagesTr/hippocampus_003.nii.gz", cut_in_half, "unreadable", says="hippocampus_003.nii.gz"),
    skin_label(picture("coloured", photograph(1)), "unreadable", says="is a coloured picture"),
]
OF_VOXELS = [
    flare_label(volume("shape", blocks(range(14), (8, 10, 11))), "shape", says="size: (11, 10, 8) against"),
    brats(BRATS.format("t2"), volume("shape", scan(0)[1:]), "shape", says="size: (12, 10, 7) against (12"),
    Damage(
        "msd_braintumour", f"{TUMOUR}/imagesTr/BRATS_002.nii.gz", volume("three", np.stack([scan(0)] * 3)),
        "shape", "BRATS_002", "hold 3 channels, the dataset has 4",
    ),
    task(
        f"{TASK}/imagesTr/hippocampus_003.nii.gz", volume("two", np.stack([scan(0)] * 2)), "shape",
        says="hold 2 channels, the dataset has 1",
    ),
    skin_label(picture("shape", disc(255, (40, 47))), "shape", says="size: (47, 40) against (48, 40)"),
    flare_label(
        volume("spacing", blocks(range(14)), spacing=(0.8, 0.9, 5.0)), "geometry",
        says="spacing: (0.8, 0.9, 5) against (0.8, 0.9, 2.5)",
    ),
    flare_label(
        volume("origin", blocks(range(14)), origin=(-10, 6, 30)), "geometry",
        says="origin: (-10, 6, 30) against (-10, 5, 30)",
    ),
    flare_label(
        volume("direction", blocks(range(14)), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), "geometry",
        says="direction: (1, 0, 0, 0, 1, 0, 0, 0, 1) against (0.96",
    ),
    brats(BRATS.format("flair"), volume("spacing", scan(0), spacing=(1, 1, 1)), "geometry", says="_flair"),
    flare_label(volume("unknown", with_one(14)), "labels", says="holds the label 14, which the"),
    flare_label(volume("negative", with_one(-1)), "labels", says="holds the label -1, which the"),
    flare_label(volume("half", with_one(0.5)), "labels", says="holds 0.5; labels are whole numbers"),
    flare_label(volume("nan", with_one(np.nan)), "labels", says="holds nan; labels are whole numbers"),
    flare_label(volume("infinite", with_one(np.inf)), "labels", says="holds inf"),
    brats(BRATS.format("seg"), volume("three", blocks([0, 1, 3])), "labels", says="holds the label 3"),
    skin_label(picture("grey", disc(128)), "labels", says="holds the label 128"),
    flare_label(volume("background", np.zeros(SHAPE, np.uint8)), "empty", says="holds background only"),
    skin_label(picture("background", disc(0)), "empty", says="holds background only"),
    *(
        make(contradiction, "header", says=f"{name} contradicts itself: its qform and sform differ")
        for make, name in ((flare_image, "Tr_0002_0000.nii.gz"), (flare_label, "Tr_0002.nii.gz"))
    ),
    flare_label(pixdim_of_another_size, "header", says="its pixdim and sform differ in spacing"),
    Damage(
        "amos22_ct", "amos22/labelsTr/amos_0004.nii.gz", flipped_for_nibabel, "geometry", "amos_0004",
        "amos_0004.nii.gz and amos_0004.nii.gz differ in direction",
    ),
    flare_image(coloured_volume, "values", says="holds 3 values per voxel"),
    flare_label(coloured_volume, "values", says="holds 3 values per voxel"),
    flare_image(complex_volume, "values", says="holds 2 values per voxel"),
    flare_image(volume("nan", scan_with(np.nan)), "values", says="1 values that are NaN or infinite"),
    flare_image(volume("infinite", scan_with(-np.inf)), "values", says="1 values that are NaN or infinite"),
]  # fmt: skip
OF_NAMES = [
    brats(str(Path(BRATS).parent), emptied_folder, "missing", says="holds no image <case>_t1.nii.gz"),
    Damage("acdc", HEART, emptied_folder, "missing", "patient002", "holds no image <case>.nii.gz"),
    Damage(
        "amos22_ct", "amos22/imagesTr/amos_0005.nii.gz", vanished_pair, "missing", "amos_0005",
        "imagesTr/amos_0005.nii.gz is listed in",
    ),
    Damage(
        "msd", f"{TASK}/imagesTs/hippocampus_002.nii.gz", vanished_pair, "missing", "hippocampus_002",
        "is listed in",
    ),
    task(f"{TASK}/dataset.json", listed_twice, "duplicate", says="two cases are named hippocampus_003"),
    Damage(
        "amos22_ct", "amos22/imagesVa/amos_0004.nii.gz", a_copy_of_its_kin, "duplicate", "amos_0004",
        "imagesTr/amos_0004.nii.gz and",
    ),
    Damage(
        "msd", f"{TASK}/imagesTs/hippocampus_003.nii.gz", added, "duplicate", "hippocampus_003",
        "imagesTr/hippocampus_003.nii.gz and",
    ),
    Damage(
        "flare22", "Tuning/images/FLARE22_Tr_0002_0000.nii.gz", added, "duplicate", "FLARE22_Tr_0002",
        "are the same image",
    ),
    flare_label(removed, "missing", says="case FLARE22_Tr_0002 has no label labels/<case>.nii.gz"),
    flare_image(removed, "extra", says="labels/FLARE22_Tr_0002.nii.gz has no image images/<case>_0000"),
    brats(BRATS.format("t2"), removed, "missing", says="case BraTS2021_00003 has no image <case>/<case>_t2"),
    task(f"{TASK}/labelsTr/hippocampus_003.nii.gz", removed, "missing", says="is listed in"),
    Damage(
        "flare22", "FLARE22Train/labels/FLARE22_Tr_0009.nii.gz", added, "extra", "FLARE22_Tr_0009",
        "FLARE22_Tr_0009.nii.gz has no image",
    ),
    Damage("acdc", f"{HEART}Info.cfg", removed, "missing", "patient002", "Info.cfg is missing, which tells"),
    Damage(
        "acdc", f"{HEART}Info.cfg", info_without_the_frame, "missing", "patient002",
        "names the frame 99 as ES, and no such frame is there",
    ),
]  # fmt: skip
DAMAGES = [*UNREADABLE, *OF_VOXELS, *OF_NAMES]
every = pytest.mark.parametrize("damage", DAMAGES, ids=str)


class Bench:
    """A release, and the command that converts it."""

    def __init__(self, name: str, root: Path, capsys, builder=None) -> None:
        self.name, self.capsys = name, capsys
        self.release, self.raw = root / "release", root / "raw"
        self.sources = (builder or BUILDERS[name])(self.release)

    def run(self, *options: str) -> int:
        code = main(["convert", self.name, *map(str, self.sources), "--raw", str(self.raw), *options])
        said = self.capsys.readouterr()
        self.out, self.err = said.out, said.err
        return code

    @property
    def datasets(self) -> list[Path]:
        return list(self.raw.glob("Dataset*"))

    def files(self, case: str = "") -> dict[str, int]:
        """Images and labels in the dataset or its draft: name -> when written. Of those that begin so."""
        (folder,) = [*self.datasets, *self.raw.glob(".Dataset*")]
        files = [file for file in folder.glob("*T[rs]/*") if file.name.startswith(case)]
        return {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in files}

    def cases_of_folds(self) -> set[str]:
        (folder,) = self.datasets
        folds = json.loads((folder / "splits_final.json").read_text())
        return {case for fold in folds for case in fold["train"] + fold["val"]}


@pytest.fixture
def make_bench(tmp_path, capsys):
    def make(name: str, builder=None) -> Bench:
        return Bench(name, tmp_path, capsys, builder)

    return make


def test_every_kind_of_fault_is_here():
    assert {damage.kind for damage in DAMAGES} == set(KINDS)


@every
def test_the_command_goes_on_names_the_file_and_writes_no_dataset(make_bench, damage):
    bench = make_bench(damage.release)
    damage.do(bench.release / damage.file)
    assert bench.run() == 1
    assert f"{damage.kind}: " in bench.err and damage.says in bench.err and damage.case in bench.err
    assert (
        f" {damage.kind}" in bench.err.splitlines()[0] and "faults in the data (" in bench.err.splitlines()[0]
    )
    assert "Nothing was written as a dataset yet" in bench.err
    assert not bench.datasets
    assert bench.files() and not bench.files(damage.case)


@every
def test_once_fixed_the_others_are_not_converted_anew(make_bench, damage):
    bench = make_bench(damage.release)
    whole = bench.release.with_name("whole")
    shutil.copytree(bench.release, whole)
    damage.do(bench.release / damage.file)
    bench.run()
    kept = bench.files()
    restore(bench.release, whole)
    assert bench.run() == 0
    assert kept.items() <= bench.files().items()
    assert len(bench.files()) > len(kept) or damage.case == "FLARE22_Tr_0009"


def restore(damaged: Path, whole: Path) -> None:
    """Make the one folder like the other, touching only what differs."""
    for file in [file for file in damaged.rglob("*") if file.is_file()]:
        twin = whole / file.relative_to(damaged)
        if not twin.exists():
            file.unlink()
        elif twin.read_bytes() != file.read_bytes():
            shutil.copyfile(twin, file)
    for twin in (file for file in whole.rglob("*") if file.is_file()):
        file = damaged / twin.relative_to(whole)
        if not file.exists():
            shutil.copyfile(twin, file)


@every
def test_left_out_cases_are_in_no_folder_and_in_no_fold(make_bench, damage):
    bench = make_bench(damage.release)
    damage.do(bench.release / damage.file)
    assert bench.run("--leave-out-faulty") == 1
    assert f"left out, {damage.kind}: " in bench.out
    labels = {name for name in bench.files() if name.startswith("labelsTr/")}
    assert not bench.files(damage.case)
    assert bench.cases_of_folds() == {Path(name).name.split(".")[0] for name in labels}
    (folder,) = bench.datasets
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == len(labels)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d.kind in ACCEPTABLE], ids=str)
def test_accepted_faults_are_told_and_the_case_is_taken(make_bench, damage):
    bench = make_bench(damage.release)
    damage.do(bench.release / damage.file)
    assert bench.run("--accept", damage.kind) == 0
    assert f"accepted, {damage.kind}: " in bench.out
    is_there = damage.kind != "extra"
    assert bool(bench.files(damage.case)) == is_there
    assert any(case.startswith(damage.case) for case in bench.cases_of_folds()) == is_there


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(ACCEPTABLE)))
def test_what_cannot_be_trained_with_cannot_be_accepted(make_bench, kind):
    with pytest.raises(SystemExit):
        make_bench("msd").run("--accept", kind)


def test_accepting_one_kind_does_not_accept_another(make_bench):
    bench = make_bench("flare22")
    write_volume(bench.release / FLARE_LABEL, np.zeros(SHAPE, np.uint8), spacing=(1, 1, 1))
    assert bench.run("--accept", "empty") == 1
    assert not bench.datasets
    assert bench.run("--accept", "empty", "--accept", "geometry") == 0


def test_accepting_what_was_refused_converts_that_case_alone(make_bench):
    bench = make_bench("flare22")
    write_volume(bench.release / FLARE_LABEL, np.zeros(SHAPE, np.uint8))
    assert bench.run() == 1
    kept = bench.files()
    assert bench.run("--accept", "empty") == 0
    assert kept.items() <= bench.files().items()
    assert set(bench.files()) - set(kept) == {
        "imagesTr/FLARE22_Tr_0002_0000.nii.gz",
        "labelsTr/FLARE22_Tr_0002.nii.gz",
    }


def test_many_faults_are_summed_up_by_kind_and_each_is_named(make_bench):
    bench = make_bench("flare22")
    labels = bench.release / "FLARE22Train" / "labels"
    for n in (1, 2):
        cut_in_half(labels / f"FLARE22_Tr_{n:04d}.nii.gz")
    write_volume(labels / "FLARE22_Tr_0003.nii.gz", np.zeros(SHAPE, np.uint8))
    (labels / "FLARE22_Tr_0004.nii.gz").unlink()
    assert bench.run() == 1
    assert "faults in the data (1 missing, 2 unreadable, 1 empty):" in bench.err
    for n in (1, 2, 3, 4):
        assert f"FLARE22_Tr_{n:04d}" in bench.err


def test_two_things_wrong_with_one_case_are_both_told(make_bench):
    bench = make_bench("flare22")
    write_volume(bench.release / FLARE_IMAGE, scan_with(np.nan))
    write_volume(bench.release / FLARE_LABEL, with_one(77))
    assert bench.run() == 1
    assert "(1 values, 1 labels)" in bench.err


def test_of_a_hundred_faults_a_few_are_shown_and_all_are_in_a_file(make_bench):
    bench = make_bench("synapse", lambda folder: btcv(folder, range(101, 202)))
    for n in range(101, 201):
        cut_in_half(bench.release / "RawData" / "Training" / "label" / f"label{n:04d}.nii.gz")
    assert bench.run() == 1
    assert bench.err.count("cannot be read as an image") == 5 and "  unreadable: and 95 more" in bench.err
    listing = Path(re.search(r"all are in (.*)", bench.err)[1])
    assert listing.read_text().count("unreadable: ") == 100


def test_nothing_but_faults_is_no_dataset_even_without_them(make_bench):
    bench = make_bench("flare22")
    for file in (bench.release / "FLARE22Train" / "labels").iterdir():
        cut_in_half(file)
    assert bench.run("--leave-out-faulty") == 1
    assert "6 unreadable" in bench.err and not bench.datasets


def test_a_faulty_test_image_is_left_out_of_the_test_set(make_bench):
    bench = make_bench("amos22_ct")
    cut_in_half(bench.release / "amos22" / "imagesTs" / "amos_0003.nii.gz")
    assert bench.run() == 1
    assert "imagesTs/amos_0003.nii.gz cannot be read" in bench.err
    assert bench.run("--leave-out-faulty") == 1
    names = sorted(name for name in bench.files() if name.startswith("imagesTs"))
    assert names == ["imagesTs/amos_0002_0000.nii.gz", "imagesTs/amos_0500_0000.nii.gz"]


@pytest.mark.parametrize("lost", ["img0005", "img0035"], ids=["training", "test"])
@pytest.mark.parametrize("do", [removed, cut_in_half], ids=["missing", "unreadable"])
def test_a_published_split_lacks_the_cases_that_were_left_out(make_bench, lost, do):
    bench = make_bench("synapse", lambda folder: btcv(folder, ALL_BTCV))
    do(bench.release / "RawData" / "Training" / "label" / f"label{lost[3:]}.nii.gz")
    assert bench.run("--split", "transunet", "--leave-out-faulty") == 1
    assert lost not in bench.cases_of_folds()
    moved = {name for name in bench.files() if name.startswith("labelsTs/")}
    assert (len(bench.cases_of_folds()), len(moved)) == ((17, 12) if lost == "img0005" else (18, 11))


def test_an_uncompressed_volume_cut_short(make_bench):
    bench = make_bench("brats23", brats23)
    (image,) = bench.release.rglob("BraTS-GLI-00002-000-t1n.nii.gz")
    plain = image.with_suffix("")
    sitk.WriteImage(sitk.ReadImage(str(image)), str(plain))
    image.unlink()
    cut(-10, plain)
    assert bench.run() == 1
    assert "BraTS-GLI-00002-000-t1n.nii cannot be read as an image" in bench.err


def test_names_that_differ_in_capitals_only(make_bench):
    """One file on some systems: the second is a fault."""
    bench = make_bench("msd", hippocampus)
    top = bench.release / TASK
    for part in ("imagesTr", "labelsTr"):
        shutil.copyfile(top / part / "hippocampus_003.nii.gz", top / part / "Hippocampus_003.nii.gz")
    _list(top / "dataset.json", "Hippocampus_003")
    assert bench.run() == 1
    assert "duplicate: two cases are named Hippocampus_003" in bench.err
    assert not bench.files("Hippocampus_003") and len(bench.files("hippocampus_003")) == 2


def test_a_tiny_difference_of_rounding_is_no_fault(make_bench):
    bench = make_bench("flare22")
    write_volume(
        bench.release / FLARE_LABEL, blocks(range(14)), spacing=(0.80001, 0.9, 2.5), origin=(-10.001, 5, 30)
    )
    assert bench.run() == 0


def test_a_mask_that_was_saved_in_grey_colours_is_read(make_bench):
    bench = make_bench("isic18")
    write_picture(bench.release / SKIN_LABEL, np.stack([disc()] * 3, -1))
    assert bench.run() == 0


def test_large_values_of_images_are_no_fault(make_bench):
    """The values of amos_0540 are scaled into the millions."""
    bench = make_bench("flare22")
    write_volume(bench.release / FLARE_IMAGE, scan(0, np.float64) * 1e6)
    assert bench.run() == 0
    (folder,) = bench.datasets
    image = read_volume(folder / "imagesTr" / "FLARE22_Tr_0002_0000.nii.gz")
    assert np.array_equal(image, scan(0, np.float64) * 1e6)


def test_a_picture_of_another_depth(make_bench):
    bench = make_bench("isic17")
    image = bench.release / "ISIC-2017_Training_Data" / "ISIC_0000003.jpg"
    write_picture(image.with_suffix(".png"), photograph(1, PICTURE, np.uint16) * 100)
    image.with_suffix(".png").rename(image)
    assert bench.run() == 1
    assert "has values of uint16; expected a picture of 8 bits per colour" in bench.err
