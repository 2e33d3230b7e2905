"""Submissions: hand-worked labels there and back, and every reason to refuse."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from tiny_files import affine, write_nifti

from nnunet_mamba.cli import main
from nnunet_mamba.io.images import read_header, read_values
from nnunet_mamba.study.submissions import SUBMISSIONS, get_rules

SHAPE = (2, 3, 4)  # z, y, x
CASES = {
    "amos22_ct": ("amos_0008", "results/amos_0008.nii.gz"),
    "amos22_ct_mr": ("amos_0507", "results/amos_0507.nii.gz"),
    "synapse": ("img0061", "label0061.nii.gz"),
    "acdc": ("patient101_frame14", "patient101_ES.nii.gz"),
    "brats21": ("BraTS2021_00001", "BraTS2021_00001.nii.gz"),
    "brats23": ("BraTS-GLI-00001-000", "BraTS-GLI-00001-000.nii.gz"),
}


def save(file: Path, array: np.ndarray, spacing=(0.7, 0.8, 5.0), vector: bool = False) -> None:
    """Write a volume on an oblique grid, which is common in clinics."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    if image.GetDimension() == 3:
        turn = np.deg2rad(30)
        c, s = float(np.cos(turn)), float(np.sin(turn))
        image.SetSpacing(spacing)
        image.SetOrigin((-100.25, 33.5, 1200.125))
        image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def labels_up_to(n: int) -> np.ndarray:
    return (np.arange(24).reshape(SHAPE) % (n + 1)).astype(np.uint8)


class Dataset:
    """imagesTs and predictions of one submission; the first case of two holds every label."""

    def __init__(self, folder: Path, name: str):
        self.name, self.folder = name, folder
        self.images, self.predictions = folder / "imagesTs", folder / "predictions"
        self.out = folder / "out.zip"
        self.n_labels = max(get_rules(name).labels)
        case, _ = CASES[name]
        digit = case[-1]
        self.cases = (case, case[:-1] + str((int(digit) + 1) % 10))
        for each in self.cases:
            for channel in range(2):
                save(self.images / f"{each}_{channel:04d}.nii.gz", np.zeros(SHAPE, np.float32))
            self.predict(each, labels_up_to(self.n_labels))
        description = {"nnunet_mamba": {"phases": dict(zip(self.cases, ("ES", "ED"), strict=True))}}
        (folder / "dataset.json").write_text(json.dumps(description))

    def predict(self, case: str, array: np.ndarray, **how) -> None:
        save(self.predictions / f"{case}.nii.gz", array, **how)

    def submit(self, *options: str) -> int:
        arguments = (str(self.predictions), "--images", str(self.images), "--out", str(self.out))
        return main(["submit", self.name, *arguments, *options])

    def check(self, archive: Path, *options: str) -> int:
        return main(["submit", self.name, "--images", str(self.images), "--check", str(archive), *options])

    def members(self) -> list[str]:
        with zipfile.ZipFile(self.out) as archive:
            return archive.namelist()

    def labels(self, member: str) -> sitk.Image:
        file = self.folder / "extracted" / Path(member).name
        file.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(self.out) as archive:
            file.write_bytes(archive.read(member))
        return sitk.ReadImage(str(file))


@pytest.fixture
def dataset(tmp_path):
    return lambda name="synapse": Dataset(tmp_path, name)


def test_every_submission_has_an_example_here():
    assert set(CASES) == set(SUBMISSIONS)


@pytest.mark.parametrize("name", CASES)
def test_labels_arrive_under_the_challenges_names_on_the_images_grid(dataset, name):
    made, (case, member) = dataset(name), CASES[name]
    assert made.submit() == 0
    assert member in made.members()
    assert len(made.members()) == 2
    image, source = made.labels(member), sitk.ReadImage(str(made.images / f"{case}_0000.nii.gz"))
    assert image.GetPixelID() == sitk.sitkUInt8
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, what)() == getattr(source, what)()
    if not name.startswith("brats"):
        assert np.array_equal(sitk.GetArrayFromImage(image), labels_up_to(made.n_labels))
    assert made.check(made.out) == 0


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_nnunets_own_prediction_of_an_odd_image_is_taken(dataset, reader):
    """Its qform and sform differ, and nnU-Net's writers keep the one that its reader has seen; the archive
    has both, so that it does not matter which one the challenge reads."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    made = dataset()
    description = {"labels": {}, "file_ending": ".nii.gz", "overwrite_image_reader_writer": reader}
    (made.folder / "dataset.json").write_text(json.dumps(description))
    writer = recursive_find_reader_writer_by_name(reader)()
    for case in made.cases:
        image = made.images / f"{case}_0000.nii.gz"
        write_nifti(image, np.zeros(SHAPE, np.float32), affine(), affine() @ np.diag((-1, 1, 1, 1)))
        _, properties = writer.read_images([str(image)])
        writer.write_seg(labels_up_to(13), str(made.predictions / f"{case}.nii.gz"), properties)
    assert made.submit() == 0
    with zipfile.ZipFile(made.out) as archive:
        (made.folder / "label.nii.gz").write_bytes(archive.read("label0061.nii.gz"))
    for view in ("SimpleITKIO", "NibabelIO"):
        files = made.folder / "label.nii.gz", made.images / "img0061_0000.nii.gz"
        assert len({read_header(file, view).grid for file in files}) == 1
    written = read_values(made.predictions / "img0061.nii.gz")
    assert np.array_equal(read_values(made.folder / "label.nii.gz"), written)
    assert made.check(made.out) == 0


def test_labels_of_predictions_that_are_none_are_refused(dataset, capsys):
    made = dataset()
    (made.predictions / "dataset.json").write_text(json.dumps({"labels": ["background", "spleen"]}))
    assert made.submit() == 2
    assert "expected {" in capsys.readouterr().err


def test_a_challenges_label_above_255_stays_what_it_is(dataset):
    made = dataset()
    template = {"values": {str(n): 250 + n for n in range(1, 14)}}
    (made.folder / "template.json").write_text(json.dumps(template))
    assert made.submit("--template", str(made.folder / "template.json")) == 0
    found = sitk.GetArrayFromImage(made.labels("label0061.nii.gz"))
    assert np.array_equal(found, np.where(labels_up_to(13) > 0, labels_up_to(13).astype(int) + 250, 0))


@pytest.mark.parametrize(("name", "enhancing"), [("brats21", 4), ("brats23", 3)])
def test_brats_gets_its_own_labels_back(dataset, name, enhancing):
    """nnU-Net's 1 edema, 2 necrosis, 3 enhancing are BraTS' 2, 1 and 4 (2021) or 3 (2023)."""
    made, (case, member) = dataset(name), CASES[name]
    made.predict(case, np.array([0, 1, 2, 3] * 6, np.uint8).reshape(SHAPE))
    assert made.submit() == 0
    assert sitk.GetArrayFromImage(made.labels(member)).flatten().tolist() == [0, 2, 1, enhancing] * 6


def test_regions_that_nnunet_writes_by_other_values_are_refused(dataset, capsys):
    """With the order 3, 2, 1 a voxel of the whole tumour alone is 3, which BraTS takes for enhancing."""
    made = dataset("brats23")
    labels = dict(get_rules("brats23").spec.labels)
    for order, code in (([3, 2, 1], 2), ([1, 2, 3], 0)):
        description = {"labels": labels, "regions_class_order": order}
        (made.predictions / "dataset.json").write_text(json.dumps(description))
        assert made.submit() == code
    assert "regions written as [1, 2, 3]" in capsys.readouterr().err


def test_the_labels_of_brats_are_the_inverse_of_its_conversion():
    for name in ("brats21", "brats23"):
        rules = get_rules(name)
        assert all(rules.spec.pixels.recode[theirs] == ours for ours, theirs in rules.labels.items())


def test_the_archive_is_the_same_twice(dataset):
    made = dataset()
    made.submit()
    first = made.out.read_bytes()
    made.out.unlink()
    made.submit()
    assert made.out.read_bytes() == first


def test_whole_numbers_stored_as_floats_become_bytes(dataset):
    made = dataset()
    made.predict("img0061", labels_up_to(13).astype(np.float32))
    assert made.submit() == 0
    assert made.labels("label0061.nii.gz").GetPixelID() == sitk.sitkUInt8


def test_names_can_be_overridden(dataset):
    made = dataset()
    assert made.submit("--pattern", "seg_{case}.nii", "--folder", "to/send") == 0
    assert made.members() == ["to/send/seg_img0061.nii", "to/send/seg_img0062.nii"]


def test_a_template_overrides_names_and_values(dataset, tmp_path):
    made = dataset()
    template = tmp_path / "template.json"
    values = {str(ours): 14 - ours for ours in range(1, 14)}
    template.write_text(json.dumps({"name": "{n}.nii.gz", "case": r"img00(?P<n>\d\d)", "values": values}))
    assert made.submit("--template", str(template)) == 0
    assert made.members() == ["61.nii.gz", "62.nii.gz"]
    turned = sitk.GetArrayFromImage(made.labels("61.nii.gz"))
    assert turned.flatten()[:14].tolist() == [0, *range(13, 0, -1)]


def test_cases_that_a_split_moved_there_are_left_out(dataset):
    made = dataset()
    (made.folder / "dataset.json").write_text(json.dumps({"nnunet_mamba": {"moved": ["img0062"]}}))
    assert made.submit() == 0
    assert made.members() == ["label0061.nii.gz"]


def test_the_phases_of_acdc_can_come_from_its_release(dataset, tmp_path):
    made = dataset("acdc")
    (made.folder / "dataset.json").unlink()
    assert made.submit() == 2
    patient = tmp_path / "release" / "testing" / "patient101"
    for frame in ("14", "15"):
        save(patient / f"patient101_frame{frame}.nii.gz", np.zeros(SHAPE, np.float32))
    (patient / "Info.cfg").write_text("ED: 15\nES: 14\nGroup: DCM\n")
    assert made.submit("--phases", str(tmp_path / "release")) == 0
    assert made.members() == ["patient101_ES.nii.gz", "patient101_ED.nii.gz"]


def test_phases_can_come_from_the_dataset_json_of_another_dataset(dataset, tmp_path, capsys):
    made = dataset("acdc")
    other = tmp_path / "elsewhere" / "dataset.json"
    other.parent.mkdir()
    (made.folder / "dataset.json").rename(other)
    assert made.submit("--phases", str(other)) == 0
    made.out.unlink()
    other.write_text("{}")
    assert made.submit("--phases", str(other)) == 2
    assert "says nothing of phases" in capsys.readouterr().err


# refusals


def wrong_grid(made):
    made.predict("img0061", labels_up_to(13), spacing=(0.7, 0.8, 2.5))


def wrong_size(made):
    made.predict("img0061", labels_up_to(13)[:1])


def unknown_label(made):
    made.predict("img0061", np.full(SHAPE, 17, np.uint8))


def negative_label(made):
    made.predict("img0061", np.full(SHAPE, -1, np.int16))


def probabilities(made):
    made.predict("img0061", np.full(SHAPE, 0.25, np.float32))


def not_a_number(made):
    made.predict("img0061", np.full(SHAPE, np.nan, np.float32))


def infinite(made):
    made.predict("img0061", np.full(SHAPE, np.inf, np.float32))


def four_axes(made):
    made.predict("img0061", np.zeros((2, *SHAPE), np.uint8))


def one_map_per_label(made):
    made.predict("img0061", np.zeros((*SHAPE, 2), np.uint8), vector=True)


def missing(made):
    (made.predictions / "img0062.nii.gz").unlink()


def extra(made):
    made.predict("img0063", labels_up_to(13))


def twice(made):
    save(made.predictions / "img0061.nii", labels_up_to(13))


def cut_short(made):
    file = made.predictions / "img0061.nii.gz"
    file.write_bytes(file.read_bytes()[:-9])


def other_labels(made):
    labels = {"background": 0, "aorta": 1, "gallbladder": 2}
    (made.predictions / "dataset.json").write_text(json.dumps({"labels": labels}))


def labels_exchanged(made):
    labels = dict(get_rules(made.name).spec.labels)
    labels["spleen"], labels["liver"] = labels["liver"], labels["spleen"]
    (made.predictions / "dataset.json").write_text(json.dumps({"labels": labels}))


def strange_image(made):
    save(made.images / "amos_0001_0000.nii.gz", np.zeros(SHAPE, np.float32))


def no_predictions(made):
    for file in made.predictions.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (wrong_grid, r"img0061.nii.gz: not on the grid of its image, spacing: .*2.5.* against .*5"),
        (wrong_size, "img0061.nii.gz: not on the grid of its image, size"),
        (unknown_label, r"img0061.nii.gz: unknown labels 17; expected 0, 1, "),
        (negative_label, "unknown labels -1"),
        (probabilities, "values that are not labels, such as 0.25"),
        (not_a_number, "values that are not labels, such as nan"),
        (infinite, "values that are not labels, such as inf"),
        (four_axes, "img0061.nii.gz: 4D, but its image is 3D"),
        (one_map_per_label, "several values per voxel"),
        (missing, r"no prediction of 1 cases \(img0062\)"),
        (extra, r"1 predictions of cases without an image \(img0063\)"),
        (twice, "img0061.nii and img0061.nii.gz for one case"),
        (cut_short, "img0061.nii.gz cannot be read as an image"),
        (other_labels, "has the labels .*aorta.* is made of"),
        (labels_exchanged, "has the labels .*'spleen': 6.* is made of .*'spleen': 1"),
        (strange_image, "fit no case of Synapse.*amos_0001"),
        (no_predictions, "holds no file that ends in .nii.gz"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_would_be_refused_there_is_refused_here(dataset, capsys, spoil, reason):
    made = dataset()
    spoil(made)
    assert made.submit() == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not made.out.exists()
    assert not [file for file in made.folder.iterdir() if "partial" in file.name]


def test_all_problems_are_told_at_once(dataset, capsys):
    made = dataset()
    wrong_grid(made)
    made.predict("img0062", np.full(SHAPE, 99, np.uint8))
    assert made.submit() == 2
    told = capsys.readouterr().err
    assert "img0061" in told and "img0062" in told


def test_an_empty_prediction_is_a_warning(dataset, capsys):
    made = dataset()
    made.predict("img0062", np.zeros(SHAPE, np.uint8))
    assert made.submit() == 0
    assert "warning: label0062.nii.gz: background only" in capsys.readouterr().err


def test_a_label_that_never_occurs_is_a_warning(dataset, capsys):
    made = dataset()
    for case in made.cases:
        made.predict(case, np.minimum(labels_up_to(13), 11))
    assert made.submit() == 0
    assert "no case holds the labels 12, 13" in capsys.readouterr().err


def test_an_archive_is_never_overwritten(dataset, capsys):
    made = dataset()
    made.out.write_text("precious")
    assert made.submit() == 2
    assert made.out.read_text() == "precious"
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--pattern", "same.nii.gz"), "would both be same.nii.gz"),
        (("--pattern", "{organ}.nii.gz"), "cannot be filled .'organ'.*{case}, {number}"),
        (("--pattern", "{case}.png"), "expected a file name ending in .nii.gz"),
        (("--pattern", "../{case}.nii.gz"), "A folder is given by itself"),
        (("--folder", "../elsewhere"), "leaves the archive"),
    ],
)
def test_patterns_that_make_no_names_are_refused(dataset, capsys, options, reason):
    assert dataset().submit(*options) == 2
    assert re.search(reason, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ('{"names": ""}', "some of the keys case, name, folder, values"),
        ('{"values": [1]}', "values should map labels to labels"),
        ('{"values": {"1": 65536}}', "values should be 0 to 65535"),
        ('{"values": {"1": -1}}', "values should be 0 to 65535"),
        ('{"case": "("}', "not a regular expression"),
    ],
)
def test_templates_that_cannot_be_read_are_refused(dataset, tmp_path, capsys, content, reason):
    (tmp_path / "template.json").write_text(content)
    assert dataset().submit("--template", str(tmp_path / "template.json")) == 2
    assert reason in capsys.readouterr().err


def test_a_name_without_rules_is_refused(dataset, capsys):
    assert main(["submit", "isic17", "--images", "x", "--check", "y"]) == 2
    assert "Unknown submission 'isic17'" in capsys.readouterr().err


# archives of others


def rewritten(made, change) -> Path:
    """The archive with its list of (name, bytes) changed."""
    made.submit()
    with zipfile.ZipFile(made.out) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    target = made.folder / "changed.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in change(entries):
            archive.writestr(name, content)
    return target


def as_bytes(made, array: np.ndarray) -> bytes:
    save(made.folder / "other.nii.gz", array)
    return (made.folder / "other.nii.gz").read_bytes()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: lambda files: files[1:], "1 cases are missing: label0061.nii.gz"),
        (lambda made: lambda files: [*files, ("label0099.nii.gz", b"")], "do not belong there: label0099"),
        (lambda made: lambda files: [*files, ("__MACOSX/._a", b"")], "do not belong there: __MACOSX/._a"),
        (lambda made: lambda files: [*files, files[0]], "label0061.nii.gz is 2 times in the archive"),
        (
            lambda made: lambda files: [(f"sub/{name}", content) for name, content in files],
            "sub/label0061.nii.gz is in the wrong folder; expected label0061.nii.gz",
        ),
        (
            lambda made: lambda files: [(files[0][0], as_bytes(made, labels_up_to(13)[:1])), files[1]],
            "label0061.nii.gz: not on the grid",
        ),
        (
            lambda made: (
                lambda files: [
                    (files[0][0], as_bytes(made, labels_up_to(13).astype(np.float32))),
                    files[1],
                ]
            ),
            "labels stored as float32",
        ),
        (
            lambda made: lambda files: [(files[0][0], as_bytes(made, labels_up_to(20))), files[1]],
            "unknown labels 14, 15, 16, 17, 18; expected",
        ),
        (
            lambda made: lambda files: [(files[0][0], files[0][1][:-5]), files[1]],
            "label0061.nii.gz: label0061.nii.gz cannot be read as an image",
        ),
    ],
    ids=["missing", "extra", "stray", "twice", "folder", "grid", "float", "labels", "damaged"],
)
def test_the_checker_tells_what_is_wrong_with_an_archive(dataset, capsys, change, reason):
    made = dataset()
    archive = rewritten(made, change(made))
    assert made.check(archive) == 1
    assert reason in capsys.readouterr().err


def test_what_is_no_archive_is_refused(dataset, capsys):
    made = dataset()
    made.out.write_bytes(b"PK")
    assert made.check(made.out) == 2
    assert "not a complete zip archive" in capsys.readouterr().err


def test_the_documentation_names_every_challenge():
    page = (Path(__file__).parents[3] / "docs" / "submissions.md").read_text()
    for name in SUBMISSIONS:
        assert f"`{name}`" in page


def test_the_list_tells_every_challenge(capsys):
    assert main(["submit", "--list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in SUBMISSIONS)
    assert "results/{case}.nii.gz" in told and "1 -> 2, 2 -> 1, 3 -> 4" in told


def test_the_dataset_of_the_images_tells_where_predictions_come_without(dataset, capsys):
    """The eight organs of synapse8 do not pass for thirteen."""
    made = dataset()
    labels = {"background": 0, "aorta": 1, "gallbladder": 2}
    (made.folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    assert made.submit() == 2
    assert "has the labels" in capsys.readouterr().err


def test_a_releases_own_dataset_json_beside_the_images_is_not_taken_for_nnunets(dataset):
    """AMOS22 has one, of the Decathlon's form: its reader is that of the specification."""
    made = dataset("amos22_ct")
    release = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "training": []}
    (made.folder / "dataset.json").write_text(json.dumps(release))
    for case in made.cases:
        image = made.images / f"{case}_0000.nii.gz"
        write_nifti(image, np.zeros(SHAPE, np.float32), affine(), affine() @ np.diag((-1, 1, 1, 1)))
        NibabelIOWithReorient().write_seg(
            labels_up_to(15),
            str(made.predictions / f"{case}.nii.gz"),
            NibabelIOWithReorient().read_images([str(image)])[1],
        )
    assert made.submit() == 0
