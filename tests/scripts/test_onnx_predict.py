"""The runner of exported models makes nnU-Net's label maps, with onnxruntime and numpy alone."""

import ast
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_files import GRID, write_nifti, write_volume
from tiny_models import managers, tiny_dataset, tiny_plans, tiny_predictor, write_images, write_model

pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnxscript")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy.ndimage import binary_fill_holes
from skimage.transform import resize

from nnunet_mamba.cli import main
from nnunet_mamba.inference.onnx_export import describe_model, describe_resampling
from nnunet_mamba.nnunet.commands import get_trainer_folders
from nnunet_mamba.trainers import nnUNetTrainerMMUNet

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
TIE = 2e-3  # of logits below 1, which float16 holds in steps of 2^-11; each of several sums rounds
with pytest.MonkeyPatch.context() as patched:
    patched.syspath_prepend(SCRIPTS)
    runner, images = import_module("onnx_predict"), import_module("onnx_images")


@pytest.mark.parametrize("name", ["onnx_predict", "onnx_images"])
def test_the_runner_imports_onnxruntime_and_numpy_alone(name):
    nodes = list(ast.walk(ast.parse((SCRIPTS / f"{name}.py").read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert others <= {"numpy", "onnxruntime", "onnx_images"}


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 3), (2, 5), (7, 7), (9, 20), (30, 11), (16, 32)])
def test_interpolation_along_an_axis_is_that_of_scikit_image(n_in, n_out, order):
    expected = resize(np.eye(n_in), (n_out, n_in), order, mode="edge", anti_aliasing=False, clip=False)
    np.testing.assert_allclose(images.interpolation_matrix(n_in, n_out, order), expected, atol=1e-9)


SPACINGS = {"fine": [1.0, 1.0, 1.0], "other": [0.7, 1.2, 1.0], "coarse": [1.0, 4.0, 1.1], "flat": [5, 5, 1]}
OPTIONS = {
    "image": {"order": 3, "order_z": 0, "force_separate_z": None},
    "logits": {"order": 1, "order_z": 0, "force_separate_z": None},
    "linear along z": {"order": 1, "order_z": 1, "force_separate_z": None},
    "always": {"order": 3, "force_separate_z": True},
    "never": {"order": 3, "force_separate_z": False},
    "a threshold": {"order": 3, "force_separate_z": None, "separate_z_anisotropy_threshold": 1.5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("old", "new"), [("fine", "other"), ("coarse", "fine"), ("fine", "flat")])
def test_images_are_resampled_as_by_nnunet(old, new, options):
    values = np.random.default_rng(0).normal(size=(2, 7, 9, 8)).astype(np.float32)
    shape, spacings = (9, 12, 7), (SPACINGS[old], SPACINGS[new])
    expected = resample_data_or_seg_to_shape(values.copy(), shape, *spacings, is_seg=False, **options)
    actual = images.resample(values, shape, describe_resampling(options), *spacings)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.62, 0.9])
def test_holes_are_filled_as_by_scipy(density):
    mask = np.random.default_rng(0).random((15, 18, 20)) < density
    mask[5:12, 4:14, [6, 15]] = mask[5:12, [4, 13], 6:16] = mask[[5, 11], 4:14, 6:16] = True
    filled = images.fill_holes(mask)
    assert (filled == binary_fill_holes(mask)).all() and filled.sum() > mask.sum()


@pytest.mark.parametrize("patch", [(9, 16), (32, 48, 32), (20, 7, 12)])
def test_tiles_are_weighted_as_by_nnunet(patch):
    expected = compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu"))
    assert (runner.compute_weights(patch, 1 / 8, 10) == expected.numpy()).all()


def test_tiles_begin_where_nnunets_do():
    for size in range(8, 60):
        for patch in (1, 4, 7, 8):
            expected = compute_steps_for_sliding_window((size,), (patch,), 0.5)[0]
            assert runner.compute_starts(size, patch, 0.5) == expected


SCHEMES = ["ZScore", "ZScore", "CT", "RescaleTo01", "RGBTo01", "No"]


@pytest.mark.parametrize(
    ("target", "spacing"),
    [((1.5, 1.0, 1.2), (1.0, 1.0, 1.0)), ((1.0, 1.2), (2.5, 0.9, 1.0)), ((4.0, 1.0, 1.0), (3.9, 0.8, 1.1))],
    ids=["all axes", "2D", "separate axis"],
)
def test_images_are_preprocessed_as_by_nnunet(target, spacing):
    plans = tiny_plans(target, (1, 2, 0), n_channels=len(SCHEMES))
    own = plans["configurations"]["c"]
    own["normalization_schemes"] = [f"{scheme}Normalization" for scheme in SCHEMES]
    own["use_mask_for_norm"] = [True, *[False] * 5]
    plans["foreground_intensity_properties_per_channel"]["2"] = {
        **{"mean": 90.0, "std": 55.0, "percentile_00_5": 12.0, "percentile_99_5": 170.0}
    }
    image = np.random.default_rng(0).uniform(1, 200, (len(SCHEMES), 10, 14, 12)).astype(np.float32)
    image[:, :2], image[:, :, :, -1], image[:, 5:7, 6:9, 4:7] = 0, 0, 0  # margins, and a hole
    dataset = tiny_dataset(n_channels=len(SCHEMES))
    model = describe_model(tiny_predictor(plans, dataset), ["0"])
    forward = plans["transpose_forward"]
    own_spacing = [spacing[axis] for axis in plans["transpose_backward"]]
    properties = {"spacing": own_spacing}
    expected, *_ = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, properties, *managers(plans), dataset
    )
    turned = image.transpose(0, *(axis + 1 for axis in forward))
    actual, _, box = runner.preprocess(turned, list(spacing), model)
    assert [[one.start, one.stop] for one in box] == properties["bbox_used_for_cropping"]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


MODELS = {  # plans, labels, spacing of the images (x, y, z), folds
    "3d": (tiny_plans((1, 1.1, 1), (2, 0, 1), 2, patch=(8, 8, 8)), "priorities", GRID["spacing"], (0, 1)),
    "2d": (tiny_plans((1.0, 1.2), (1, 0, 2), 2, patch=(8, 12)), "labels", (1.0, 0.9, 3.1), (0,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_label_maps_are_nnunets(tmp_path, monkeypatch, name):
    plans, kind, spacing, folds = MODELS[name]
    folder = write_model(tmp_path / "model", plans, tiny_dataset(kind, 2), folds)
    shapes = {"one": (9, 20, 17), "two": (5, 11, 6)}
    cases = write_images(tmp_path / "in", shapes, 2, **{**GRID, "spacing": spacing})
    check_label_maps(tmp_path, monkeypatch, folder, cases, folds)


@pytest.mark.slow
def test_label_maps_of_the_hippocampus_are_nnunets(tmp_path, monkeypatch):
    if not HIPPOCAMPUS.is_dir():
        pytest.skip("the hippocampus data are not at ../shared/data")
    plans = tiny_plans(patch=(40, 40, 40))
    folder = write_model(tmp_path / "model", plans, tiny_dataset(), trainer=nnUNetTrainerMMUNet)
    (tmp_path / "in").mkdir()
    for file in sorted(HIPPOCAMPUS.glob("imagesTr/hippocampus_*.nii.gz"))[:2]:
        shutil.copy(file, tmp_path / "in" / file.name.replace(".nii", "_0000.nii"))
    check_label_maps(tmp_path, monkeypatch, folder, tmp_path / "in", (0,))


def check_label_maps(folder, monkeypatch, model, cases, folds):
    """Predict by nnU-Net and by the exported model: grids are equal, and labels but where logits tie."""
    monkeypatch.setenv("nnUNet_extTrainer", get_trainer_folders())
    assert main(["export-onnx", str(model), str(folder / "onnx"), "-f", *map(str, folds)]) == 0
    predictor = nnUNetPredictor(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(model), folds)
    names = sorted({file.name.split("_0000")[0] for file in cases.glob("*_0000.nii.gz")})
    files = [[str(file) for file in sorted(cases.glob(f"{name}_0*.nii.gz"))] for name in names]
    (folder / "nnunet").mkdir()
    predictor.predict_from_files_sequential(files, [str(folder / "nnunet" / n) for n in names], True)
    run_script(folder / "onnx", cases, folder / "ours")
    assert sorted(file.name for file in (folder / "ours").iterdir()) == [f"{name}.nii.gz" for name in names]
    for name in names:
        ours, theirs = (sitk.ReadImage(str(folder / of / f"{name}.nii.gz")) for of in ("ours", "nnunet"))
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(ours, what)(), getattr(theirs, what)(), atol=1e-5)
        differ = sitk.GetArrayFromImage(ours) != sitk.GetArrayFromImage(theirs)
        probabilities = np.load(folder / "nnunet" / f"{name}.npz")["probabilities"]
        if predictor.label_manager.has_regions:
            distance = np.abs(np.log(probabilities / (1 - probabilities))).min(0)
        else:
            second, best = np.sort(probabilities, axis=0)[-2:]
            distance = np.log(best / second)
        assert not (differ & (distance > TIE)).any()
        assert differ.mean() < 1e-3 and (distance > TIE).mean() > 0.9
        assert len(np.unique(sitk.GetArrayFromImage(theirs))) > 1


def run_script(*folders):
    """Run the script in a process of its own, in which nothing else may be imported."""
    heavy = "{'torch', 'scipy', 'skimage', 'nnunetv2', 'nnunet_mamba', 'SimpleITK', 'nibabel'}"
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import onnx_predict; onnx_predict.main(); "
        f"sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_voxels_are_read_as_by_nnunet(tmp_path):
    values = np.random.default_rng(0).integers(0, 120, (4, 5, 6))
    for kind in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"):
        for ending in (".nii", ".nii.gz"):
            file = tmp_path / f"{kind}{ending}"
            write_volume(file, values.astype(kind))
            expected, properties = SimpleITKIO().read_images([str(file)])
            voxels, spacing, _ = images.read_nifti(file)
            assert voxels.dtype == np.float32 and (voxels == expected[0]).all()
            assert spacing == properties["spacing"]


def write_scaled(file, *, slope=None, byte_order="<", shape=(4, 5, 6)):
    import nibabel

    values = np.arange(np.prod(shape), dtype=f"{byte_order}i2").reshape(shape)
    header = nibabel.Nifti1Header(endianness=byte_order)
    header.set_xyzt_units("mm")
    image = nibabel.Nifti1Image(values, np.eye(4), header)
    image.header.set_data_dtype(np.int16)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, file)


def test_scaled_voxels_are_read_as_by_nnunet(tmp_path):
    write_scaled(tmp_path / "scaled.nii", slope=(0.37, -3.5))
    expected, _ = SimpleITKIO().read_images([str(tmp_path / "scaled.nii")])
    np.testing.assert_allclose(
        images.read_nifti(tmp_path / "scaled.nii")[0], expected[0], rtol=1e-6, atol=1e-5
    )


BAD = {
    "big endian": (lambda file: write_scaled(file, byte_order=">"), "little endian"),
    "four axes": (lambda file: write_scaled(file, shape=(2, 3, 4, 5)), "4 axes"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-20]), ""),
    "not an image": (lambda file: file.write_bytes(b"text"), ""),
    "NaN": (lambda file: write_nifti(file, np.full((4, 5, 6), np.nan, "f4"), np.eye(4), None), "NaN"),
}


@pytest.fixture
def folders(tmp_path):
    """Folders of a model, which is never run, and of one image."""
    (tmp_path / "model").mkdir()
    write_images(tmp_path / "in", {"one": (4, 5, 6)})
    content = {"format": 1, "networks": [], "channels": ["MRI"], "file_ending": ".nii.gz"}
    (tmp_path / "model" / "model.json").write_text(json.dumps(content))
    return tmp_path


def refuse(folders, monkeypatch):
    """Return what the runner says when it gives up; it leaves no label map."""
    words = ["onnx_predict.py", *(str(folders / name) for name in ("model", "in", "out"))]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as error:
        runner.main()
    assert not list(folders.glob("out/*"))
    return str(error.value)


@pytest.mark.parametrize("kind", BAD)
def test_bad_images_are_refused_by_name(folders, monkeypatch, kind):
    spoil, said = BAD[kind]
    spoil(folders / "in" / "one_0000.nii.gz")
    message = refuse(folders, monkeypatch)
    assert message.startswith("one: ") and said in message


def test_a_missing_channel_other_grids_no_images_and_other_formats_are_refused(folders, monkeypatch):
    file = folders / "model" / "model.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "channels": ["T1", "T2"]}))
    assert "one_0001.nii.gz" in refuse(folders, monkeypatch)
    write_volume(folders / "in" / "one_0001.nii.gz", np.ones((4, 5, 7), np.float32))
    assert "shape or spacing" in refuse(folders, monkeypatch)
    file.write_text(json.dumps({**content, "file_ending": ".nii"}))
    assert "no CASE_0000.nii" in refuse(folders, monkeypatch)
    file.write_text(json.dumps({**content, "format": 2}))
    assert "format 2; expected 1" in refuse(folders, monkeypatch)
