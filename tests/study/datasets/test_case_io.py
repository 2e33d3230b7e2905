"""Image and label lie on each other for the reader that nnU-Net trains with, or the case is refused.

Each label here is 1 where its image is above 500, so that after nnU-Net's own reader has read both, a label
is right where `label == (image > 500)` in every voxel, and a turned one is wrong in every second.
"""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from releases import BUILDERS
from tiny_files import affine, scan, write_nifti, write_volume

from nnunet_mamba.cli import main

FLIPPED = affine() @ np.diag((-1, 1, 1, 1))
FROM_THE_OTHER_END = FLIPPED @ np.array([[1, 0, 0, -11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
TURNED = affine(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
RELEASES = {  # by ITK, by nibabel: image and label of one case, and what nnU-Net calls it
    "flare22": (
        "FLARE22Train/images/FLARE22_Tr_0002_0000.nii.gz",
        "FLARE22Train/labels/FLARE22_Tr_0002.nii.gz",
    ),
    "amos22_ct": ("amos22/imagesTr/amos_0004.nii.gz", "amos22/labelsTr/amos_0004.nii.gz"),
}
MASK = (scan(0) > 500).astype(np.uint8)
ACCEPT = ["--accept", "geometry", "--accept", "header"]


@pytest.fixture(params=RELEASES)
def bench(request, tmp_path, capsys):
    return Bench(request.param, tmp_path, capsys)


class Bench:
    def __init__(self, name, folder, capsys):
        self.name, self.raw, self.capsys = name, folder / "raw", capsys
        self.sources = BUILDERS[name](folder / "release")
        self.image, self.label = (folder / "release" / file for file in RELEASES[name])
        write_volume(self.image, scan(0))
        write_volume(self.label, MASK)

    def convert(self, *options) -> int:
        return main(["convert", self.name, *map(str, self.sources), "--raw", str(self.raw), *options])

    def said(self) -> str:
        return "".join(self.capsys.readouterr())

    def written(self):
        (folder,) = self.raw.glob("Dataset*")
        case = self.label.name.removesuffix(".nii.gz")
        return folder, folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr" / f"{case}.nii.gz"

    def fits(self) -> bool:
        """Return whether the label covers the bright voxels of the image as nnU-Net reads them."""
        folder, image, label = self.written()
        description = json.loads((folder / "dataset.json").read_text())
        reader = determine_reader_writer_from_dataset_json(description, verbose=False)()
        values, labels = reader.read_images([str(image)])[0], reader.read_seg(str(label))[0]
        return np.array_equal(labels, values > 500)


def test_a_release_as_it_should_be(bench):
    assert bench.convert() == 0
    assert bench.fits()


@pytest.mark.parametrize("sform", [TURNED, FLIPPED], ids=["turned", "flipped"])
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_header_that_contradicts_itself_is_a_fault_and_accepted_it_fits(bench, which, sform):
    file = getattr(bench, which)
    write_nifti(file, scan(0) if which == "image" else MASK, affine(), sform)
    assert bench.convert() == 1
    assert f"{file} contradicts itself" in bench.said()
    assert bench.convert(*ACCEPT) == 0
    assert bench.fits()


@pytest.mark.parametrize("forms", [TURNED, FLIPPED, affine(origin=(0, 0, 0)), affine(spacing=(1, 1, 1))])
def test_an_accepted_label_is_written_on_its_images_grid(bench, forms):
    """The label's header is lost or wrong, its voxels are not."""
    write_nifti(bench.label, MASK, forms, forms)
    assert bench.convert() == 1
    assert "differ in " in bench.said()
    assert bench.convert("--accept", "geometry") == 0
    assert bench.fits()
    _, image, label = bench.written()
    assert np.allclose(nibabel.load(image).affine, nibabel.load(label).affine)
    images = [sitk.ReadImage(str(file)) for file in (image, label)]
    assert images[0].GetDirection() == images[1].GetDirection()


def test_an_accepted_channel_is_written_on_the_grid_of_the_first(tmp_path, capsys):
    """T2 with a header that was lost: the same voxels."""
    sources = BUILDERS["brats21"](tmp_path / "release")
    (file,) = (tmp_path / "release").rglob("BraTS2021_00003_t2.nii.gz")
    write_volume(file, scan(5), spacing=(1, 1, 1), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    words = ["convert", "brats21", *map(str, sources), "--raw", str(tmp_path / "raw")]
    assert main(words) == 1
    assert main([*words, "--accept", "geometry"]) == 0
    first, second = (
        (tmp_path / "raw" / "Dataset137_BraTS2021" / "imagesTr" / f"BraTS2021_00003_{n:04d}.nii.gz")
        for n in (0, 2)
    )
    assert np.allclose(nibabel.load(first).affine, nibabel.load(second).affine)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(second))), scan(5))


@pytest.mark.parametrize("stored", [(0, 1, 2), (2, 0, 1)])
def test_the_same_voxels_in_another_order(bench, stored):
    """A label that lies right, stored from the other end or along other axes: a reader that turns all to RAS
    sees no difference; one that does not would pair other voxels."""
    image = nibabel.Nifti1Image(np.flip(MASK.T, 0), FROM_THE_OTHER_END)
    nibabel.save(reordered(image, stored), bench.label)
    assert bench.convert() == (0 if bench.name == "amos22_ct" else 1)
    if bench.name != "amos22_ct":
        assert "differ in the order in which they store the same voxels" in bench.said()
        assert bench.convert("--accept", "geometry") == 0
    assert bench.fits()
    _, image, label = bench.written()
    assert nibabel.load(image).shape == nibabel.load(label).shape


def reordered(image, axes):
    return image.as_reoriented(np.stack([np.argsort(axes), [1, 1, 1]], -1))


def test_a_converted_label_and_a_prediction_are_on_one_grid(bench, tmp_path):
    """evaluate refused all cases for one accepted label that had kept its header."""
    write_nifti(bench.label, MASK, TURNED, TURNED)
    assert bench.convert("--accept", "geometry") == 0
    folder, image, label = bench.written()
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    reader = determine_reader_writer_from_dataset_json(json.loads((folder / "dataset.json").read_text()))()
    values, properties = reader.read_images([str(image)])
    reader.write_seg((values[0] > 500).astype(np.uint8), str(predictions / label.name), properties)
    references = tmp_path / "references"
    references.mkdir()
    (references / label.name).write_bytes(label.read_bytes())
    words = ["--dataset-json", str(folder / "dataset.json"), "--labels", "1", "--metrics", "dice"]
    assert main(["evaluate", str(predictions), str(references), *words]) == 0
    assert "1.0000" in bench.said()


def test_a_last_axis_of_size_1_is_not_handed_on(bench):
    """nnU-Net's readers by nibabel refuse it: only 3d images are supported."""
    for file, values in ((bench.image, scan(0)), (bench.label, MASK)):
        nibabel.save(nibabel.Nifti1Image(values.T[..., None], affine()), file)
    assert bench.convert() == 0
    assert bench.fits()
    assert all(nibabel.load(file).ndim == 3 for file in bench.written()[1:])
