"""nnU-Net's own commands with our trainers, on a few tiny volumes, each command in a process of its own.

The trainers are the demo's, cut to one epoch of two steps by a file in a folder that nnUNet_extTrainer names.
Choose a part with, for example, `-k "labels and 3d_fullres"`.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_mamba.nnunet import register

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unregistered")]

DATASET = "Dataset999_Tiny"
TRAINER = "nnUNetTrainerMMUNet_demo"
CASES = [f"case_{i}" for i in range(5)]
UNSEEN = ["case_8", "case_9"]
N_FOLDS = 2
OURS = {"command": ("nnunet-mamba", "predict", "--batch-size", "1")}  # logits equal to the last bit
KINDS = {
    "labels": {"labels": {"background": 0, "body": 1, "kernel": 2}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "kernel": 2}, "regions_class_order": [1, 2]},
    "ignore": {"labels": {"background": 0, "body": 1, "kernel": 2, "ignore": 3}},
}
SHORT_TRAINERS = """
import os
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunet_mamba import trainers
from nnunet_mamba.trainers import *

short = {"num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
short["num_epochs"] = int(os.environ["N_EPOCHS"])
for name in trainers.__all__:
    trainer = getattr(trainers, name)
    trainer.settings = {**trainer.settings, **short}


class nnUNetTrainerShort(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        vars(self).update(short)
"""


def draw_case(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels: a bright ball (1), a brighter kernel (2), noise; for "ignore" a slab of 3.

    Shape: both (28, 26, 24).
    """
    rng = np.random.default_rng(seed)
    shape = (28, 26, 24)
    centre = [size / 2 + rng.uniform(-2, 2) for size in shape]
    distance = np.sqrt(sum((grid - c) ** 2 for grid, c in zip(np.indices(shape), centre, strict=True)))
    labels = (distance < 9).astype(np.uint8) + (distance < 4).astype(np.uint8)
    image = labels * 2.0 + rng.normal(0, 0.5, shape)
    if kind == "ignore":
        labels[:3] = 3
    return image.astype(np.float32), labels


def write_volume(path: Path, voxels: np.ndarray) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 1.2))
    sitk.WriteImage(image, path)


class Workspace:
    """nnU-Net's folders with one dataset; a training is run once, when first asked for, and then shared."""

    def __init__(self, root: Path, kind: str):
        self.root, self.kind = root, kind
        self.unseen = root / "unseen"
        self._trained: set[tuple[str, str, int]] = set()
        for folder in ("raw", "preprocessed", "results", "ext", "unseen"):
            (root / folder).mkdir(parents=True)
        (root / "ext" / "short_trainers.py").write_text(SHORT_TRAINERS)
        self._write_dataset()
        self._plan()

    def run(self, command: str, *arguments: object, **environment: str) -> str:
        """Run one of nnU-Net's commands to its end and return what it printed."""
        env = {
            **os.environ,
            **{f"nnUNet_{name}": str(self.root / name) for name in ("raw", "preprocessed", "results")},
            "nnUNet_extTrainer": str(self.root / "ext"),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            "N_EPOCHS": "1",
            **environment,
        }
        line = [Path(sys.executable).with_name(command), *map(str, arguments)]
        result = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=900)
        assert result.returncode == 0, (
            f"{command} {arguments}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        )
        return result.stdout

    def train(self, configuration: str, fold: int = 0, trainer: str = TRAINER) -> Path:
        """Train and validate one fold; returns its folder."""
        if (trainer, configuration, fold) not in self._trained:
            self.run("nnUNetv2_train", 999, configuration, fold, "-tr", trainer, "-device", "cpu", "--npz")
            self._trained.add((trainer, configuration, fold))
        return self.model(configuration, trainer) / f"fold_{fold}"

    def model(self, configuration: str, trainer: str = TRAINER) -> Path:
        return self.root / "results" / DATASET / f"{trainer}__nnUNetPlans__{configuration}"

    def predict(
        self,
        configuration: str,
        name: str,
        *arguments: object,
        command: tuple[str, ...] = ("nnUNetv2_predict",),
        **environment: str,
    ) -> Path:
        """Predict the unseen cases with fold 0 into a new folder of this name."""
        out = self.root / "predictions" / name
        what = ["-d", 999, "-c", configuration, "-f", 0, *arguments]
        what += [] if "-tr" in arguments else ["-tr", TRAINER]
        cheaply = ["-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta"]
        self.run(*command, "-i", self.unseen, "-o", out, *what, *cheaply, **environment)
        return out

    @cached_property
    def fullres_prediction(self) -> Path:
        """The unseen cases, predicted by fold 0 of 3d_fullres."""
        self.train("3d_fullres")
        return self.predict("3d_fullres", "fullres_reference")

    def _write_dataset(self) -> None:
        raw = self.root / "raw" / DATASET
        for folder in ("imagesTr", "labelsTr"):
            (raw / folder).mkdir(parents=True)
        for seed, case in enumerate(CASES):
            image, labels = draw_case(seed, self.kind)
            write_volume(raw / "imagesTr" / f"{case}_0000.nii.gz", image)
            write_volume(raw / "labelsTr" / f"{case}.nii.gz", labels)
        for seed, case in enumerate(UNSEEN, start=100):
            write_volume(self.unseen / f"{case}_0000.nii.gz", draw_case(seed, self.kind)[0])
        dataset = {"channel_names": {"0": "MRI"}, "numTraining": len(CASES), "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps({**dataset, **KINDS[self.kind]}))

    def _plan(self) -> None:
        """Plan and preprocess, then add the cascade, which nnU-Net plans for large images only."""
        plan = ("nnUNetv2_plan_and_preprocess", "-d", 999, "-c", "2d", "3d_fullres", "-np", 1, 1)
        self.run(*plan, "-npfp", 1, nnUNet_n_proc_DA="1")
        preprocessed = self.root / "preprocessed" / DATASET
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
        plans["configurations"].update(cascade_of(plans["configurations"]["3d_fullres"]))
        (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
        self.run("nnUNetv2_preprocess", "-d", 999, "-c", "3d_lowres", "-np", 1, nnUNet_n_proc_DA="1")
        folds = [{"train": CASES[:3], "val": CASES[3:]}, {"train": CASES[3:], "val": CASES[:3]}]
        (preprocessed / "splits_final.json").write_text(json.dumps(folds))


def cascade_of(fullres: dict) -> dict:
    """The configurations 3d_lowres, at twice the spacing, and 3d_cascade_fullres."""
    lowres = {
        **fullres,
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [2 * spacing for spacing in fullres["spacing"]],
        "median_image_size_in_voxels": [size / 2 for size in fullres["median_image_size_in_voxels"]],
        "patch_size": [16, 16, 16],
        "next_stage": "3d_cascade_fullres",
    }
    return {
        "3d_lowres": lowres,
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }


@pytest.fixture(scope="module", params=KINDS)
def workspace(request, tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("nnunet") / request.param, request.param)


plain_labels = pytest.mark.parametrize("workspace", ["labels"], indirect=True)  # where the kind is no matter


def voxels(folder: Path) -> dict[str, np.ndarray]:
    """Case -> label map, of a folder of predictions."""
    return {f.name.split(".")[0]: sitk.GetArrayFromImage(sitk.ReadImage(f)) for f in folder.glob("*.nii.gz")}


def assert_label_maps_of_the_unseen_cases(folder: Path) -> None:
    predicted = voxels(folder)
    assert set(predicted) == set(UNSEEN)
    for labels in predicted.values():
        assert labels.shape == (28, 26, 24)
        assert set(np.unique(labels)) <= {0, 1, 2}  # never the ignore label


def assert_trained_and_validated(fold: Path) -> None:
    assert {path.name for path in fold.iterdir()} >= {"checkpoint_final.pth", "progress.png", "debug.json"}
    assert len(voxels(fold / "validation")) in (2, 3)
    assert "foreground_mean" in json.loads((fold / "validation" / "summary.json").read_text())


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "3d_lowres"])
def test_trains_validates_and_predicts(workspace, configuration):
    assert_trained_and_validated(workspace.train(configuration))
    stock = workspace.predict(configuration, configuration)
    assert_label_maps_of_the_unseen_cases(stock)
    assert_same(stock, workspace.predict(configuration, f"ours_{configuration}", **OURS))


def validate_again(workspace: Workspace, configuration: str, name: str, *options: object) -> Path:
    """Validate fold 0 of a training again; returns the folder of the label maps."""
    model = ("-d", 999, "-c", configuration, "-tr", TRAINER, "-f", 0, "-device", "cpu")
    workspace.run("nnunet-mamba", "validate", *model, "--name", name, *options)
    return workspace.model(configuration, f"{TRAINER}@{name}") / "fold_0" / "validation"


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_validating_again_gives_the_trainings_own_labels_and_rows_to_compare(workspace, configuration):
    fold = workspace.train(configuration)
    again = validate_again(workspace, configuration, "same", "--batch-size", 1)
    assert_same(fold / "validation", again, CASES[3:])
    validate_again(workspace, configuration, "nomixer", "--without-mixer", "--disable_tta")
    models = [workspace.model(configuration, f"{TRAINER}{end}") for end in ("", "@same", "@nomixer")]
    table = workspace.root / f"{configuration}.csv"
    workspace.run("nnunet-mamba", "evaluate", "--results", *models, "--folds", 0, "--out", table)
    scores = {}
    with table.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            scores.setdefault(row["trainer"], []).append((row["case"], row["label"], row["value"]))
    assert list(scores) == [model.name.split("__")[0] for model in models]
    assert scores[TRAINER] == scores[f"{TRAINER}@same"] != scores[f"{TRAINER}@nomixer"]


def test_the_second_stage_of_the_cascade_trains_validates_and_predicts(workspace):
    for fold in range(N_FOLDS):  # each case's first stage comes from the fold that did not see it
        workspace.train("3d_lowres", fold)
    assert_trained_and_validated(workspace.train("3d_cascade_fullres"))
    again = validate_again(workspace, "3d_cascade_fullres", "same", "--batch-size", 1)
    assert_same(workspace.train("3d_cascade_fullres") / "validation", again, CASES[3:])
    first_stage = workspace.predict("3d_lowres", "first_stage")
    stages = ("-prev_stage_predictions", first_stage)
    second = workspace.predict("3d_cascade_fullres", "cascade", *stages)
    assert_label_maps_of_the_unseen_cases(second)
    assert_same(second, workspace.predict("3d_cascade_fullres", "our_cascade", *stages, **OURS))


PLANNED = (
    *("UMambaBot", "UMambaEnc", "MambaUni", "MambaBi", "MambaMulti", "MMUNet_B8", "MMUNet_SSMAll"),
    *("UMamba2", "XLSTMUNetBot", "XLSTMUNetEnc", "LKMUNet", "MMUNet_Attention"),
)
IN_2D = ("UMambaBot", "UMambaEnc", "MambaUni", "MambaBi", "XLSTMUNetEnc", "LKMUNet")
EVERY_NETWORK = [
    *((f"nnUNetTrainer{name}_demo", "3d_fullres") for name in (*PLANNED, "MambaBiNoSSM")),
    *((f"nnUNetTrainer{name}_demo", "2d") for name in IN_2D),
    *((f"nnUNetTrainer{name}", "2d") for name in ("VMUNet", "MambaUNet", "SwinUMamba", "SwinUMambaD")),
    ("nnUNetTrainerVMUNetPaper", "2d"),
    *((f"nnUNetTrainer{name}", "3d_fullres") for name in ("SegMamba", "SegMambaV2", "NnMamba", "LightMUNet")),
    ("nnUNetTrainerLightMUNet", "2d"),
]


@plain_labels
@pytest.mark.parametrize(("trainer", "configuration"), EVERY_NETWORK)
def test_every_network_trains_and_predicts(workspace, trainer, configuration):
    assert_trained_and_validated(workspace.train(configuration, trainer=trainer))
    out = workspace.predict(configuration, f"{trainer}_{configuration}", "-tr", trainer)
    assert_label_maps_of_the_unseen_cases(out)


@plain_labels
def test_plans_of_a_template_need_no_preprocessing_and_no_trainer_of_ours(workspace):
    """nnU-Net's own trainer, for two steps, on a network that the plans name."""
    printed = workspace.run("nnunet-mamba", "plans", "apply", "cpu", 999, "--network", "mm_unet")
    plans = "nnUNetPlans_cpu_mm_unet"
    assert f"nnUNetv2_train 999 3d_fullres 0 -p {plans} " in printed
    where = (999, "3d_fullres", 0, "-p", plans, "-tr", "nnUNetTrainerShort")
    workspace.run("nnUNetv2_train", *where, "-device", "cpu", "--npz")
    model = workspace.root / "results" / DATASET / f"nnUNetTrainerShort__{plans}__3d_fullres"
    assert_trained_and_validated(model / "fold_0")
    options = ("-p", plans, "-tr", "nnUNetTrainerShort")
    assert_label_maps_of_the_unseen_cases(workspace.predict("3d_fullres", "template", *options))


@plain_labels
def test_plans_for_a_card_share_the_preprocessed_data_and_are_sound(workspace):
    workspace.run("nnunet-mamba", "plans", "make", 999, "--network", "umamba_bot", "--vram-gb", 2)
    path = workspace.root / "preprocessed" / DATASET / "nnUNetMambaPlans_2G_umamba_bot.json"
    configurations = json.loads(path.read_text())["configurations"]
    for name in ("2d", "3d_fullres"):
        assert configurations[name]["data_identifier"] == f"nnUNetPlans_{name}"
    printed = workspace.run("nnunet-mamba", "plans", "check", path, "--network", "umamba_bot")
    assert f"{path.name}: sound" in printed


@plain_labels
def test_the_small_plans_of_the_demo_are_saved_with_the_model(workspace):
    workspace.train("3d_fullres")
    plans = json.loads((workspace.model("3d_fullres") / "plans.json").read_text())
    saved = plans["configurations"]["3d_fullres"]
    assert saved["batch_size"] == 2
    assert saved["architecture"]["arch_kwargs"]["features_per_stage"][0] == 16


@plain_labels
def test_an_interrupted_training_goes_on(workspace):
    trainer = "nnUNetTrainerUMambaBot_demo"
    command = ("nnUNetv2_train", 999, "3d_fullres", 0, "-tr", trainer, "-device", "cpu")
    assert "Epoch 0" in workspace.run(*command, N_EPOCHS="1")
    resumed = workspace.run(*command, "--c", N_EPOCHS="2")
    assert "Epoch 1" in resumed
    assert "Epoch 0" not in resumed


@plain_labels
def test_predict_from_modelfolder_gives_what_predict_gives(workspace):
    reference = workspace.fullres_prediction
    out = workspace.root / "predictions" / "from_modelfolder"
    arguments = ["-m", workspace.model("3d_fullres"), "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1]
    command = "nnUNetv2_predict_from_modelfolder"
    workspace.run(command, "-i", workspace.unseen, "-o", out, *arguments, "--disable_tta")
    assert_same(reference, out)


@plain_labels
@pytest.mark.parametrize(
    ("variable", "said", "equal"),
    [
        ("NNUNET_MAMBA_BATCHED_VALIDATION", "several patches at once", 0.999),  # float16 sums may tie
        ("NNUNET_MAMBA_ONE_PASS_EXPORT", "exports label maps in one pass", 1),
    ],
)
def test_validation_in_our_ways_gives_what_nnunets_gives(workspace, variable, said, equal):
    validation = workspace.train("2d") / "validation"
    stock = voxels(validation)
    for path in validation.glob("*.nii.gz"):
        path.unlink()
    command = ("nnUNetv2_train", 999, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--val")
    printed = workspace.run(*command, **{variable: "1"})
    assert said in printed
    ours = voxels(validation)
    assert set(ours) == set(stock)
    for case, labels in stock.items():
        assert (labels == ours[case]).mean() >= equal


@plain_labels
def test_predicts_once_registered_with_no_variable_set(workspace):
    reference = workspace.fullres_prediction
    register.register_trainers()
    try:
        out = workspace.predict("3d_fullres", "registered", nnUNet_extTrainer="")
    finally:
        register.unregister_trainers()
    assert_same(reference, out)


@plain_labels
def test_finds_the_best_configuration_and_ensembles(workspace):
    for configuration in ("2d", "3d_fullres"):
        for fold in range(N_FOLDS):
            workspace.train(configuration, fold)
    where = ["-c", "2d", "3d_fullres", "-tr", TRAINER, "-f", *range(N_FOLDS), "-np", 1]
    printed = workspace.run("nnUNetv2_find_best_configuration", 999, *where)
    results = workspace.root / "results" / DATASET
    considered = json.loads((results / "inference_information.json").read_text())["all_results"]
    assert len(considered) == 3  # two configurations and their ensemble
    assert f"-tr {TRAINER}" in (results / "inference_instructions.txt").read_text()
    assert "***All results:***" in printed


@plain_labels
def test_a_model_travels_as_a_zip_into_fresh_folders(workspace):
    reference = workspace.fullres_prediction
    archive, elsewhere = workspace.root / "model.zip", workspace.root / "elsewhere"
    elsewhere.mkdir()
    what = ["-c", "3d_fullres", "-tr", TRAINER, "-f", 0]
    workspace.run("nnUNetv2_export_model_to_zip", "-d", 999, "-o", archive, *what)
    assert any(name.endswith("checkpoint_final.pth") for name in zipfile.ZipFile(archive).namelist())
    workspace.run("nnUNetv2_install_pretrained_model_from_zip", archive, nnUNet_results=str(elsewhere))
    assert_same(reference, workspace.predict("3d_fullres", "from_zip", nnUNet_results=str(elsewhere)))


@plain_labels
def test_a_model_travels_as_an_export_whose_card_knows_its_split(workspace):
    """By the log, and without one by the summary of the validation; not by splits_final.json alone."""
    reference, model = workspace.fullres_prediction, workspace.model("3d_fullres")
    bare, unknown = (workspace.root / name / DATASET / model.name for name in ("bare", "unknown"))
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("training_log_*"))
    shutil.copytree(bare, unknown, ignore=shutil.ignore_patterns("summary.json"))
    for folder, said in (
        (model, "fold 0: 3 cases trained on, 2 validated |"),
        (bare, "fold 0: 3 cases trained on, 2 validated |"),
        (unknown, "fold 0: 3 cases to train on, 2 to validate by splits_final.json of "),
    ):
        export = workspace.root / "an export" / folder.parts[-3]
        workspace.run("nnunet-mamba", "export-model", folder, export, "-f", 0)
        assert said in (export / "README.md").read_text(encoding="utf-8")
    elsewhere = workspace.root / "another place"
    workspace.run("nnunet-mamba", "import-model", export, nnUNet_results=str(elsewhere))
    assert_same(reference, workspace.predict("3d_fullres", "from_export", nnUNet_results=str(elsewhere)))


def assert_same(one: Path, other: Path, cases: Sequence[str] = UNSEEN) -> None:
    expected, found = voxels(one), voxels(other)
    assert set(expected) == set(found) == set(cases)
    for case, labels in expected.items():
        assert np.array_equal(labels, found[case])
