"""Probabilities, channel by channel, beside those that nnU-Net's export writes.

Tolerances: a softmax of float32 rounds some 1e-7 of its result. Logits of float16 are rounded after
interpolation, from float64 in both; where a float64 sum lies at the border of two float16, one may take the
other.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from tiny_models import managers, properties_of, tiny_dataset, tiny_plans

from nnunet_mamba.inference.export import export_prediction
from nnunet_mamba.inference.probabilities import iterate_probabilities
from nnunet_mamba.inference.resampling import Target

INSIDE, MARGINS, OLD = (14, 17, 12), [(2, 1), (0, 3), (0, 0)], (6, 9, 13)
KINDS = {"labels": 3, "regions": 2, "ignore": 3}


def make_logits(n_heads, dtype, old=OLD):
    return torch.from_numpy((np.random.default_rng(0).normal(size=(n_heads, *old)) * 4).astype(dtype))


def case(transpose=(0, 1, 2), spacing=(1.0, 1.0, 1.0), **how):
    plans = tiny_plans(spacing, transpose, **how)
    return plans, *managers(plans), properties_of(plans, (0.7, 0.8, 4.0), INSIDE, MARGINS)


def written_by(export, folder, logits, kind, transpose=(0, 1, 2), spacing=(1.0, 1.0, 1.0)):
    """The files that an export with nnU-Net's arguments writes."""
    _, plans, configuration, properties = case(transpose, spacing)
    folder.mkdir()
    export(logits, properties, configuration, plans, tiny_dataset(kind), str(folder / "a"), True)
    return folder


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_those_that_nnunet_writes(tmp_path, kind, dtype, transpose):
    for number, spacing in enumerate([(1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0)]):
        logits = make_logits(KINDS[kind], dtype, (14, *OLD[1:]) if len(spacing) == 2 else OLD)
        theirs, ours = (
            written_by(export, tmp_path / f"{name} {number}", logits, kind, transpose, spacing)
            for name, export in (("theirs", export_prediction_from_logits), ("ours", export_prediction))
        )
        assert sorted(file.name for file in ours.iterdir()) == ["a.nii.gz", "a.npz", "a.pkl"]
        assert (ours / "a.nii.gz").read_bytes() == (theirs / "a.nii.gz").read_bytes()
        found, expected = (np.load(folder / "a.npz") for folder in (ours, theirs))
        assert found.files == expected.files == ["probabilities"]
        found, expected = found["probabilities"], expected["probabilities"]
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        # the derivative of a probability by its logit is 1/4 at most; logits of float16 are up to 16
        tolerance = 5e-7 if dtype == np.float32 else 2 * 2.0**-7 / 4
        assert np.abs(found - expected).max() < tolerance
        assert (np.abs(found - expected) < 5e-7).mean() > 0.99
        kept = [pickle.loads((folder / "a.pkl").read_bytes()) for folder in (ours, theirs)]
        assert kept[0] == kept[1]


def test_what_the_network_did_not_see_is_background():
    for kind, outside in (("labels", [1, 0, 0]), ("regions", [0, 0])):
        _, plans, configuration, properties = case((2, 0, 1))
        logits = make_logits(KINDS[kind], np.float32)
        target = Target.of_image(plans, configuration, properties, logits.shape)
        labels = plans.get_label_manager(tiny_dataset(kind))
        found = np.stack(list(iterate_probabilities(logits, target, labels)))
        assert found.shape[1:] == properties["own_shape"]
        mask = np.ones(target.shape, bool)
        mask[target.box] = False
        assert (found[:, mask.transpose(target.transpose)] == np.array(outside)[:, None]).all()
        inside = found[:, ~mask.transpose(target.transpose)]
        assert (inside > 0).all() and (inside < 1).all()
        if kind == "labels":
            np.testing.assert_allclose(found.sum(0), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_logits_as_large_as_float16_holds_give_no_nan(kind):
    _, plans, configuration, properties = case()
    logits = torch.full((KINDS[kind], *OLD), -65504.0)
    logits[1] = 65504.0
    target = Target.of_image(plans, configuration, properties, logits.shape)
    labels = plans.get_label_manager(tiny_dataset(kind))
    for values in (logits, logits.half()):
        found = np.stack(list(iterate_probabilities(values, target, labels)))[(slice(None), *target.box)]
        assert (found[1] == 1).all() and (np.delete(found, 1, 0) == 0).all()


def test_the_number_of_threads_does_not_matter():
    _, plans, configuration, properties = case()
    logits = make_logits(3, np.float16)
    target = Target.of_image(plans, configuration, properties, logits.shape)
    labels = plans.get_label_manager(tiny_dataset())
    one, four = (np.stack(list(iterate_probabilities(logits, target, labels, n))) for n in (1, 4))
    assert np.array_equal(one, four)


def test_channels_come_one_at_a_time(tmp_path):
    """No second copy of all of them, and a file that ends where it should."""
    _, plans, configuration, properties = case()
    logits = make_logits(3, np.float32)
    target = Target.of_image(plans, configuration, properties, logits.shape)
    channels = iterate_probabilities(logits, target, plans.get_label_manager(tiny_dataset()))
    assert next(channels).shape == next(channels).shape == target.shape
    written = written_by(export_prediction, tmp_path / "ours", logits, "labels")
    assert zipfile.ZipFile(Path(written, "a.npz")).testzip() is None
