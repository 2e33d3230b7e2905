import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.study.datasets.phantom import LABELS, SPACING_MM, draw_phantom, write_phantom_dataset
from nnunet_mamba.study.datasets.readers import read_source

FOREGROUND = {name: value for name, value in LABELS.items() if value}


@pytest.fixture(scope="module")
def phantoms():
    return [draw_phantom(np.random.default_rng((0, k))) for k in range(12)]


def best_window_dice(images: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """The Dice of the best of all classifiers `low <= brightness < high`, knowing the answer.

    Brightness is relative to the image's mean, cut into 100 classes of equal size.
    """
    brightness = np.concatenate([(image / image.mean()).ravel() for image in images])
    inside = np.concatenate([mask.ravel() for mask in masks])
    edges = np.quantile(brightness, np.linspace(0, 1, 101)[1:-1])
    level = np.searchsorted(edges, brightness)
    chosen = np.concatenate([[0], np.bincount(level, minlength=100).cumsum()])
    hit = np.concatenate([[0], np.bincount(level[inside], minlength=100).cumsum()])
    low, high = np.triu_indices(101, 1)
    return float((2 * (hit[high] - hit[low]) / (chosen[high] - chosen[low] + inside.sum())).max())


def test_the_window_search_finds_a_window_where_there_is_one():
    mask = np.arange(1000) % 10 == 0
    assert best_window_dice([np.where(mask, 2.0, 1.0)], [mask]) == 1


@pytest.mark.parametrize("label", FOREGROUND.values(), ids=FOREGROUND)
def test_grey_values_alone_do_not_find_a_label(phantoms, label):
    dice = best_window_dice([p.image for p in phantoms], [p.labels == label for p in phantoms])
    assert dice < 0.45


def test_every_phantom_has_every_label_in_one_piece_or_nearly(phantoms):
    for phantom in phantoms:
        sizes = np.bincount(phantom.labels.ravel(), minlength=4)
        assert sizes[1] > 800 and sizes[2] > 250 and sizes[3] > 40
        assert sizes[0] > 3 * sizes[1:].sum()


def test_position_and_size_vary(phantoms):
    centres = np.array([np.argwhere(p.labels == 1).mean(0) for p in phantoms])
    sizes = np.array([(p.labels == 1).sum() for p in phantoms])
    assert (centres.std(0) > 0.5).all()
    assert sizes.std() > 0.1 * sizes.mean()


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    folders = [
        write_phantom_dataset(tmp_path / str(i) / "Dataset900_Phantom", n_train=2, n_test=1, seed=seed)
        for i, seed in enumerate((3, 3, 4))
    ]
    images = [read(folder / "imagesTs" / "phantom_002_0000.nii.gz") for folder in folders]
    assert np.array_equal(images[0], images[1])
    assert images[0].shape != images[2].shape or not np.allclose(images[0], images[2])


def test_a_larger_dataset_begins_with_the_smaller_one(tmp_path):
    small = write_phantom_dataset(tmp_path / "a" / "Dataset900_Phantom", n_train=1, n_test=0, seed=0)
    large = write_phantom_dataset(tmp_path / "b" / "Dataset900_Phantom", n_train=2, n_test=1, seed=0)
    name = "imagesTr/phantom_000_0000.nii.gz"
    assert np.array_equal(read(small / name), read(large / name))


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_the_files_are_an_nnunet_raw_dataset(tmp_path):
    folder = write_phantom_dataset(tmp_path / "Dataset900_Phantom", n_train=3, n_test=2, seed=0)
    source = read_source(folder)
    assert source.labelled_names() == ("phantom_000", "phantom_001", "phantom_002")
    assert not source.issues
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3
    for part, names in (("Ts", ("phantom_003", "phantom_004")), ("Tr", ("phantom_000",))):
        for name in names:
            image = sitk.ReadImage(str(folder / f"images{part}" / f"{name}_0000.nii.gz"))
            label = sitk.ReadImage(str(folder / f"labels{part}" / f"{name}.nii.gz"))
            assert image.GetSpacing() == label.GetSpacing() == pytest.approx(SPACING_MM[::-1])
            assert image.GetSize() == label.GetSize()


def test_a_split_of_one_fold_covers_the_training_cases(tmp_path):
    folder = write_phantom_dataset(
        tmp_path / "Dataset900_Phantom", n_train=3, n_test=1, seed=0, n_validation=2
    )
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert fold == {"train": ["phantom_000"], "val": ["phantom_001", "phantom_002"]}


def test_nothing_is_written_over(tmp_path):
    folder = tmp_path / "Dataset900_Phantom"
    write_phantom_dataset(folder, n_train=1, n_test=0, seed=0)
    with pytest.raises(FileExistsError, match="exists already"):
        write_phantom_dataset(folder, n_train=1, n_test=0, seed=0)


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_mamba.study.datasets.phantom.draw_phantom", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantom_dataset(tmp_path / "Dataset900_Phantom", n_train=1, n_test=0, seed=0)
    assert list(tmp_path.iterdir()) == []


def interrupt(rng):
    raise KeyboardInterrupt


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="n_train >= 1"):
        write_phantom_dataset(tmp_path / "Dataset900_Phantom", n_train=0, n_test=1, seed=0)
