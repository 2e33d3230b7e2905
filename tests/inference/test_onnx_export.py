"""Export of trained models to ONNX: what is written, and what is refused by name with nothing left behind."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_dataset, tiny_plans, tiny_predictor, write_model
from torch import nn

pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnxscript")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")

from nnunet_mamba.inference import onnx_export
from nnunet_mamba.inference.model import load_model
from nnunet_mamba.inference.onnx_export import (
    compare_with_runtime,
    describe_model,
    export_network,
    export_onnx_model,
)
from nnunet_mamba.networks.finite import NonFiniteWeightsError
from nnunet_mamba.nnunet.trained_plans import INTENSITIES, READ, READ_OF_ALL

NUMBERS = {"mean": 0.1, "std": 0.9, "lowest": -1.5, "highest": 1.5}  # tiny_models.STATISTICS


@pytest.fixture
def not_exported(monkeypatch):
    """Networks are not exported, which takes seconds, and none differs."""
    monkeypatch.setattr(onnx_export, "export_network", lambda network, patch, file: file.touch())
    monkeypatch.setattr(onnx_export, "compare_with_runtime", lambda *_: 0.0)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    plans = tiny_plans((1.0, 2.0), n_channels=2, patch=(8, 8))
    plans["configurations"]["c"]["normalization_schemes"] = ["CTNormalization", "ZScoreNormalization"]
    plans["configurations"]["c"]["use_mask_for_norm"] = [True, True]
    folder = write_model(tmp_path_factory.mktemp("model"), plans, tiny_dataset("regions", 2), (0, 1))
    return load_model(folder, ["0", "1"], "checkpoint_final.pth", "cpu", allow_tqdm=False)


def test_a_folder_holds_a_network_per_fold_and_what_surrounds_them(predictor, tmp_path):
    differences = export_onnx_model(predictor, ["0", "1"], tmp_path / "out")
    networks = ["fold_0.onnx", "fold_1.onnx"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [*networks, "model.json"]
    assert list(differences) == networks and all(0 <= one <= 1e-3 for one in differences.values())
    weights = [(tmp_path / "out" / name).read_bytes() for name in networks]
    assert weights[0] != weights[1]
    model = json.loads((tmp_path / "out" / "model.json").read_text())
    assert model["networks"] == networks and model["channels"] == ["MRI", "MRI"]
    assert model["spacing"] == [1.0, 2.0] and model["patch_size"] == [8, 8]
    assert model["mirror_axes"] == [0, 1] and model["regions_class_order"] == [1, 2]
    assert model["normalization"] == [
        {"scheme": "CTNormalization", "within_mask": False, **NUMBERS},
        {"scheme": "ZScoreNormalization", "within_mask": True},
    ]
    assert model["resample_image"]["order"] == 3 and model["resample_logits"]["order"] == 1


OBSTACLES = {
    "preprocessor": ({"preprocessor_name": "NoResamplingPreprocessor"}, "preprocessor of their own"),
    "cascade": ({"previous_stage": "3d_lowres"}, "second stage of a cascade.* of 3d_lowres"),
    "image": ({"resampling_fn_data": "resample_torch_fornnunet"}, "images by resample_torch_fornnunet"),
    "logits": (
        {"resampling_fn_probabilities": "resample_torch_fornnunet"},
        "probabilities by resample_torch_fornnunet",
    ),
    "order": ({"resampling_fn_data_kwargs": {"is_seg": False, "order": 2}}, "other orders"),
    "option": ({"resampling_fn_data_kwargs": {"is_seg": False, "dtype": 1}}, "images with dtype"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_models_that_the_runner_could_not_reproduce_are_refused_by_name(name):
    changes, said = OBSTACLES[name]
    plans = tiny_plans()
    plans["configurations"]["c"].update(changes)
    with pytest.raises(ValueError, match=said):
        describe_model(tiny_predictor(plans, tiny_dataset()), ["0"])


def test_no_more_is_read_of_plans_than_a_prediction_reads():
    """Those keys are checked where a model is loaded."""
    plans = tiny_plans()
    plans["configurations"]["c"]["normalization_schemes"] = ["CTNormalization"]
    own = {key: plans["configurations"]["c"][key] for key in (*READ, "architecture")}
    few = {key: plans[key] for key in (*READ_OF_ALL, INTENSITIES[0])} | {"configurations": {"c": own}}
    model = describe_model(tiny_predictor(plans, tiny_dataset()), ["0"])
    assert describe_model(tiny_predictor(few, tiny_dataset()), ["0"]) == {**model, "dataset": None}


@pytest.mark.parametrize(
    ("reader", "ending"),
    [("NaturalImage2DIO", ".png"), ("SimpleITKIO", ".nrrd"), ("NibabelIOWithReorient", ".nii.gz")],
)
def test_other_files_than_nifti_are_refused(reader, ending):
    plans = {**tiny_plans(), "image_reader_writer": reader}
    with pytest.raises(ValueError, match=f"images are {ending} files read by {reader}"):
        describe_model(tiny_predictor(plans, tiny_dataset(ending=ending)), ["0"])


def test_a_difference_above_the_tolerance_is_refused_and_leaves_nothing(predictor, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    monkeypatch.setattr(onnx_export, "ROUNDING", -1.0)
    with pytest.raises(ValueError, match=r"fold_0.onnx: onnxruntime's logits differ"):
        export_onnx_model(predictor, ["0", "1"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("not_exported")
def test_weights_that_are_not_finite_are_refused_and_leave_nothing(predictor, monkeypatch, tmp_path):
    good = predictor.list_of_parameters[0]
    broken = {name: torch.full_like(values, torch.nan) for name, values in good.items()}
    monkeypatch.setattr(predictor, "list_of_parameters", [good, broken])
    with pytest.raises(NonFiniteWeightsError, match=r"fold 1: .* tensors hold NaN"):
        export_onnx_model(predictor, ["0", "1"], tmp_path / "out")
    assert not list(tmp_path.iterdir())


class Runtime:
    """In onnxruntime's place: a session that returns `logits`."""

    def __init__(self, logits):
        self.logits = logits

    def InferenceSession(self, *_, **__):
        return SimpleNamespace(run=lambda *_: [self.logits.numpy()])


class Amplifying(nn.Module):
    """A network whose float32 is wrong in the second digit behind the point; its float64 is not."""

    def forward(self, x):
        return (x + 1e5) - 1e5


def test_rounding_passes_where_torch_itself_rounds_as_much(monkeypatch, tmp_path):
    patch, network = torch.randn(1, 1, 64, 64, generator=torch.manual_seed(0)), Amplifying()
    rounded = network(patch)
    noise = (rounded - patch).std() * torch.randn(patch.shape)
    for errors, passes in ((noise, True), (10 * noise, False), (torch.full_like(patch, 0.05), False)):
        monkeypatch.setitem(sys.modules, "onnxruntime", Runtime(patch + errors))
        if passes:
            assert compare_with_runtime(network, patch, tmp_path / "a.onnx") > onnx_export.TOLERANCE
            continue
        with pytest.raises(
            ValueError, match=r"a\.onnx: .*differ from torch's by .* in float64 are .*, torch's"
        ):
            compare_with_runtime(network, patch, tmp_path / "a.onnx")


def test_logits_that_are_not_finite_are_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", Runtime(torch.full((1, 1, 4, 4), torch.nan)))
    with pytest.raises(ValueError, match="differ from torch's by nan"):
        compare_with_runtime(nn.Identity(), torch.randn(1, 1, 4, 4), tmp_path / "a.onnx")


class Singular(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Singular cannot be exported to ONNX: .*svd"):
        export_network(Singular().eval(), torch.randn(1, 1, 4, 4), tmp_path / "network.onnx")


def test_more_weights_than_a_file_holds_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "LARGEST_GB", 1e-9)
    with pytest.raises(ValueError, match="GB of weights; an ONNX file holds 2 GB"):
        export_network(nn.Linear(4, 4), torch.randn(1, 4), tmp_path / "network.onnx")
