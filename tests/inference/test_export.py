"""Export of predictions: when nnU-Net's own code makes it, and that files are written whole or not at all."""

import resource
from contextlib import contextmanager

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import export_prediction_from_logits, resample_and_save
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_models import managers, properties_of, tiny_dataset, tiny_plans

from nnunet_mamba.inference import export
from nnunet_mamba.inference.export import Exporter, Prediction, export_for_next_stage, find_obstacle

INSIDE, MARGINS, OLD = (14, 17, 12), [(2, 1), (0, 3), (0, 0)], (6, 9, 13)
BEFORE = {"a.nii.gz": b"label map of before", "a.npz": b"probabilities of before", "a.pkl": b"its properties"}


def make_logits(n_heads=3, shape=OLD):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n_heads, *shape)).astype(np.float16))


def properties(plans):
    return properties_of(plans, (0.7, 0.8, 1.0), INSIDE, MARGINS)


def exporter_of(plans, kind="labels", **options):
    return Exporter(*managers(plans), tiny_dataset(kind), n_threads=1, **options)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class OwnLabels(LabelManager):
    """A label manager as others write them: what nnU-Net would call 1 is 2."""

    def convert_logits_to_segmentation(self, logits):
        return super().convert_logits_to_segmentation(logits) * 2 % 3

    def convert_probabilities_to_segmentation(self, probabilities):
        return super().convert_probabilities_to_segmentation(probabilities)


def of_activation(self, dataset, **options):
    return LabelManager(dataset["labels"], None, inference_nonlin=lambda x: torch.softmax(-x, 0))


def of_own_class(self, dataset, **options):
    return OwnLabels(dataset["labels"], None)


OBSTACLES = {
    "resample_torch_fornnunet": {"func": "resample_torch_fornnunet"},
    "with mode, what": {"options": {"what": 1, "mode": "edge"}},
    "as labels": {"options": {"is_seg": True}},
    "splines of a higher order": {"options": {"order": 3}},
    "of a higher order": {"options": {"order_z": 2}},
    "manager of their own, OwnLabels": {"labels": of_own_class},
    "an activation of its own": {"labels": of_activation},
}


def obstructed(monkeypatch, func=None, options=None, labels=None):
    """Plans with an obstacle to one pass."""
    plans = tiny_plans(**(options or {}))
    own = plans["configurations"]["c"]
    if func:
        own["resampling_fn_probabilities"] = func
        own["resampling_fn_probabilities_kwargs"] = {"is_seg": False, "force_separate_z": False}
    if labels:
        monkeypatch.setattr(PlansManager, "get_label_manager", labels)
    return plans


@pytest.mark.parametrize("said", OBSTACLES)
def test_what_is_in_the_way_of_one_pass_is_named(monkeypatch, said):
    plans, configuration = managers(obstructed(monkeypatch, **OBSTACLES[said]))
    assert said in find_obstacle(plans, configuration, plans.get_label_manager(tiny_dataset()))


@pytest.mark.parametrize(
    "how",
    [{}, {"order": 0}, {"order_z": 1}, {"force_separate_z": True}, {"separate_z_anisotropy_threshold": 5}],
)
@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_nothing_is_in_the_way_of_nnunets_defaults(kind, how):
    assert exporter_of(tiny_plans(**how), kind).obstacle is None


@pytest.mark.parametrize("save_probabilities", [False, True])
@pytest.mark.parametrize("said", [said for said in OBSTACLES if "what" not in said])
def test_with_an_obstacle_the_files_are_nnunets(tmp_path, monkeypatch, said, save_probabilities):
    plans = obstructed(monkeypatch, **OBSTACLES[said])
    manager, configuration = managers(plans)
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    export_prediction_from_logits(
        make_logits(),
        properties(plans),
        configuration,
        manager,
        tiny_dataset(),
        str(tmp_path / "theirs" / "a"),
        save_probabilities,
    )
    ours = exporter_of(plans, save_probabilities=save_probabilities)
    prediction = ours.segment(make_logits(), properties(plans))
    ours.write(prediction, tmp_path / "ours" / "a")
    found, expected = contents(tmp_path / "ours"), contents(tmp_path / "theirs")
    assert set(found) == set(expected) and len(found) == 1 + 2 * save_probabilities
    assert found["a.nii.gz"] == expected["a.nii.gz"]
    if save_probabilities:
        both = [np.load(tmp_path / name / "a.npz")["probabilities"] for name in ("ours", "theirs")]
        assert np.array_equal(*both)


def test_without_an_obstacle_nnunets_export_is_not_called(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "export_prediction_from_logits", lambda *_: pytest.fail("called"))
    ours = exporter_of(tiny_plans())
    prediction = ours.segment(make_logits(), properties(tiny_plans()))
    assert prediction.logits is None  # nothing more is to be made of them
    ours.write(prediction, tmp_path / "new" / "folder" / "a")
    image = sitk.ReadImage(tmp_path / "new" / "folder" / "a.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(image), prediction.segmentation)
    assert image.GetSpacing() == pytest.approx((1.0, 0.8, 0.7))


@pytest.fixture(params=["one pass", "nnU-Net's"])
def prepared(request, tmp_path):
    """An exporter and a prediction of much noise, and a folder with files of an earlier one."""
    ours = exporter_of(tiny_plans(order=3 if "nnU" in request.param else 1), save_probabilities=True)
    assert bool(ours.obstacle) == ("nnU" in request.param)
    prediction = ours.segment(make_logits(), properties(tiny_plans()))
    for name, content in BEFORE.items():
        (tmp_path / name).write_bytes(content)
    return ours, prediction, tmp_path / "a"


def test_files_of_before_are_replaced(prepared):
    ours, prediction, target = prepared
    (target.parent / ".partial-a").mkdir()
    (target.parent / ".partial-a" / "of a killed process").touch()
    ours.write(prediction, target)
    found = contents(target.parent)
    assert set(found) == set(BEFORE) and not set(found.values()) & set(BEFORE.values())


@contextmanager
def largest_file(n_bytes):
    """A disk that is full once a file has so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("n_bytes", [0, 500, 9000])
def test_on_a_full_disk_the_files_of_before_stay_whole(prepared, n_bytes):
    """In the label map as well, whose writer may not notice."""
    ours, prediction, target = prepared
    if n_bytes == 500:
        ours.save_probabilities = False
    with largest_file(n_bytes), pytest.raises((OSError, RuntimeError, ValueError)):
        ours.write(prediction, target)
    assert contents(target.parent) == BEFORE
    ours.write(prediction, target)
    assert contents(target.parent)["a.nii.gz"] != BEFORE["a.nii.gz"]


@pytest.mark.parametrize("how", ["raises", "leaves half", "interrupted"])
def test_a_writer_that_fails_changes_nothing(prepared, monkeypatch, how):
    ours, prediction, target = prepared
    write = SimpleITKIO.write_seg

    def fail(self, values, file, known):
        write(self, values, file, known)
        with open(file, "r+b") as stream:  # noqa: PTH123
            stream.truncate(300)
        if how != "leaves half":
            raise {"raises": OSError("broken"), "interrupted": KeyboardInterrupt()}[how]

    monkeypatch.setattr(SimpleITKIO, "write_seg", fail)
    with pytest.raises((OSError, ValueError, KeyboardInterrupt)):
        ours.write(prediction, target)
    assert contents(target.parent) == BEFORE


def test_the_label_map_comes_last(prepared, monkeypatch):
    """Whose presence means that all files are there."""
    ours, prediction, target = prepared
    moved, replace = [], export.Path.replace

    def keep(self, other):
        moved.append(other.name)
        return replace(self, other)

    monkeypatch.setattr(export.Path, "replace", keep)
    ours.write(prediction, target)
    assert sorted(moved) == sorted(BEFORE) and moved[-1] == "a.nii.gz"


def test_files_are_removed(tmp_path):
    others = {"ab.nii.gz", "a.json"}  # TIFF's readers look for an image's spacing in the latter
    for name in (*BEFORE, *others):
        (tmp_path / name).touch()
    exporter_of(tiny_plans()).remove(tmp_path / "a")
    exporter_of(tiny_plans()).remove(tmp_path / "b")
    assert set(contents(tmp_path)) == others


def test_a_label_map_is_written_in_the_images_own_order_of_axes(tmp_path):
    plans = tiny_plans(transpose=(1, 2, 0))
    ours = exporter_of(plans)
    known = properties(plans)
    ours.write(ours.segment(make_logits(), known), tmp_path / "a")
    assert sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.nii.gz")).shape == known["own_shape"]
    assert isinstance(ours.segment(make_logits(), known), Prediction)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0), (1.0, 4.0)], ids=str)
@pytest.mark.parametrize("kind", ["labels", "priorities", "regions"])
@pytest.mark.parametrize("how", [{}, {"order_z": 1}, {"order": 3}], ids=str)
def test_labels_for_the_next_stage_are_nnunets(tmp_path, monkeypatch, spacing, kind, how):
    plans = tiny_plans(spacing, **how)
    manager, configuration = managers(plans)
    known = {**properties(plans), "spacing": [4.0, 0.8, 0.9]}
    logits = make_logits(2 if kind == "regions" else 3)
    saved = {}

    class Dataset(nnUNetDatasetNumpy):
        @staticmethod
        def save_seg(labels, file):
            saved[file] = labels

    for make, name in ((resample_and_save, "theirs"), (export_for_next_stage, "ours")):
        for others in ((1, Dataset), (1,)):
            file = str(tmp_path / f"{name} {len(others)}")
            make(logits, (11, 20, 15), file, manager, configuration, known, tiny_dataset(kind), *others)
    theirs, ours = (saved[str(tmp_path / f"{name} 2")] for name in ("theirs", "ours"))
    assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    theirs, ours = (blosc2.open(tmp_path / f"{name} 1.b2nd", mode="r") for name in ("theirs", "ours"))
    assert (ours.dtype, ours.chunks, ours.blocks) == (theirs.dtype, theirs.chunks, theirs.blocks)
    assert np.array_equal(ours[:], theirs[:])
