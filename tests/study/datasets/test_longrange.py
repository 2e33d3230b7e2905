"""Promises of the positive control: no label is known within its distance, and each is known beyond."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import distance_transform_cdt, label

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.longrange import (
    CUE,
    LABELS,
    SHAPE,
    draw_longrange,
    smallest_length,
    write_longrange_dataset,
)

CASES = [(SHAPE, 8, "x"), (SHAPE, 64, "x"), ((1, 96, 16), 40, "y"), ((96, 16, 32), 30, "z")]


def draw_pair(seed, *options):
    """The same image with its labels as drawn, and exchanged."""
    return [
        draw_longrange(np.random.default_rng(seed), *options, exchanged=exchanged)
        for exchanged in (False, True)
    ]


@pytest.mark.parametrize("shape, distance, along", CASES)
@pytest.mark.parametrize("seed", range(10))
def test_within_the_distance_of_the_targets_an_image_is_equal_to_that_with_all_labels_exchanged(
    shape, distance, along, seed
):
    drawn, exchanged = draw_pair(seed, shape, distance, along)
    from_targets = distance_transform_cdt(drawn.labels == 0, metric="chessboard")
    near = from_targets <= distance
    assert np.array_equal(drawn.image[near], exchanged.image[near])
    assert np.array_equal(exchanged.labels, np.array([0, 2, 1])[drawn.labels])
    first_difference = from_targets[drawn.image != exchanged.image].min()
    assert distance < first_difference <= distance + 1 + 6  # both ends are moved outwards by up to 3 voxels


@pytest.mark.parametrize("shape, distance, along", CASES)
def test_half_of_the_targets_are_bright_and_the_mean_tells_nothing(shape, distance, along):
    for seed in range(5):
        drawn, exchanged = draw_pair(seed, shape, distance, along)
        n_bright, n_dark = (label(drawn.labels == LABELS[name])[1] for name in ("bright", "dark"))
        assert n_bright == n_dark > 0
        assert drawn.image.mean(dtype=float) == pytest.approx(exchanged.image.mean(dtype=float), abs=1e-6)


def targets_and_labels(images, reach):
    """Windows of `reach` voxels to both sides of each target, along the lane, and 1 for bright ones."""
    windows, bright = [], []
    for drawn in images:
        parts, n = label(drawn.labels[0])
        for y, x in (np.argwhere(parts == k + 1).mean(0).round().astype(int) for k in range(n)):
            padded = np.pad(drawn.image[0], ((0, 0), (reach, reach)))
            windows.append(padded[y - 2 : y + 3, x : x + 2 * reach + 1].ravel())
            bright.append(drawn.labels[0, y, x] == LABELS["bright"])
    return np.array(windows), np.array(bright)


def accuracy_of_oracle(reach, distance):
    """Share of targets that ridge regression on windows of `reach` voxels labels right, on unseen images."""
    images = [draw_longrange(np.random.default_rng((1, k)), SHAPE, distance) for k in range(125)]
    windows, bright = targets_and_labels(images, reach)
    windows = np.sign(windows) * np.maximum(np.abs(windows) - 0.5, 0)  # cues, not noise
    n = 1000
    x, y = windows[:n], 2.0 * bright[:n] - 1
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)
    return ((windows[n:] @ weights > 0) == bright[n:]).mean()


def test_an_oracle_that_sees_only_so_far_guesses_and_one_that_sees_the_cue_knows():
    guess, know = accuracy_of_oracle(16, distance=16), accuracy_of_oracle(28, distance=16)
    assert abs(guess - 0.5) < 0.06  # 1000 targets: four standard deviations
    assert know > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_the_cue_of_each_target_lies_along_its_lane(seed):
    drawn = draw_longrange(np.random.default_rng(seed), SHAPE, 32)
    smooth = drawn.image[0]
    parts, n = label(drawn.labels[0])
    assert n == 16
    for k in range(n):
        y, x = np.argwhere(parts == k + 1).mean(0).round().astype(int)
        row = smooth[y - 1 : y + 2].mean(0)
        far = np.abs(np.arange(len(row)) - x) > 32
        strongest = row[far][np.abs(row[far]).argmax()]
        expected = CUE if drawn.labels[0, y, x] == LABELS["bright"] else -CUE
        assert strongest == pytest.approx(expected, abs=0.5)


def test_grids_that_do_not_fit_are_refused():
    n = smallest_length(64)
    draw_longrange(np.random.default_rng(0), (1, 32, n), 64)
    with pytest.raises(ValueError, match=f"need an axis of {n} voxels; x has {n - 1}"):
        draw_longrange(np.random.default_rng(0), (1, 32, n - 1), 64)
    with pytest.raises(ValueError, match="1 x 24 voxels across have 3 lanes; expected an even number"):
        draw_longrange(np.random.default_rng(0), (1, 24, 128), 64)


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_a_larger_dataset_begins_with_the_smaller_one(tmp_path):
    options = {"distance": 20, "shape": (1, 16, 64)}
    small = write_longrange_dataset(tmp_path / "a" / "Dataset901_LongRange", n_cases=1, **options)
    large = write_longrange_dataset(tmp_path / "b" / "Dataset901_LongRange", n_cases=2, **options)
    name = "imagesTr/longrange_000_0000.nii.gz"
    assert np.array_equal(read(small / name), read(large / name))
    assert json.loads((large / "dataset.json").read_text())["numTraining"] == 2


def test_convert_makes_the_dataset_once(tmp_path, capsys):
    command = ["convert", "longrange", "--raw", str(tmp_path), "--distance", "20", "--cases", "3"]
    assert main([*command, "--dataset-id", "920"]) == 0
    folder = tmp_path / "Dataset920_LongRange"
    assert len(list((folder / "imagesTr").iterdir())) == 3
    assert "labels depend on cues more than 20 voxels away" in capsys.readouterr().out
    assert main([*command, "--dataset-id", "920", "--unless-there"]) == 0
    assert main([*command, "--dataset-id", "920"]) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["longrange"], "expected no SOURCE, and --distance N"),
        (["longrange", "folder", "--distance", "8"], "expected no SOURCE"),
        (["longrange", "--distance", "8", "--split", "7:3"], "plans split"),
        (["longrange", "--distance", "200"], "need an axis of"),
        (["longrange", "--distance", "-3"], "expected a distance of at least 0"),
        (
            ["longrange", "--distance", "8", "--shape", "0", "128", "128"],
            "at least one voxel along each axis",
        ),
        (["longrange", "--distance", "8", "--seed", "-1"], "expected at least one, of a seed from 0 on"),
        (["longrange", "--distance", "8", "--cases", "0"], "Got 0 cases"),
        (["longrange", "--distance", "8", "--dry-run"], "Releases alone have --dry-run"),
        (["longrange", "--distance", "8", "--symlink", "--workers", "2"], "have --symlink, --workers"),
        (["acdc", "folder", "--distance", "8", "--seed", "0"], "longrange alone has --distance, --seed"),
    ],
)
def test_convert_says_what_does_not_fit(tmp_path, capsys, arguments, message):
    assert main(["convert", *arguments, "--raw", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
