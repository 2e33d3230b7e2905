import json
import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from simulated_study import write_simulated
from tiny_study import tiny_scores

from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.evaluation import evaluate_folder, select_scored_labels, write_table
from nnunet_mamba.study.report import (
    CaseFiles,
    QuickstartReport,
    ReportRequest,
    Stage,
    TrainingCurves,
    collect_study_report,
)

N_EPOCHS = 5


@pytest.fixture(scope="module")
def quickstart_report(tmp_path_factory) -> QuickstartReport:
    """Four phantoms whose predictions are the truth moved sideways by 0, 1, 2, 3 voxels."""
    raw = write_phantom_dataset(
        tmp_path_factory.mktemp("raw") / "Dataset900_Phantom", n_train=1, n_test=4, seed=0
    )
    predictions = tmp_path_factory.mktemp("predictions")
    cases = []
    for shift, file in enumerate(sorted((raw / "labelsTs").iterdir())):
        truth = sitk.ReadImage(str(file))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(truth), shift, axis=2))
        moved.CopyInformation(truth)
        sitk.WriteImage(moved, str(predictions / file.name))
        name = file.name.removesuffix(".nii.gz")
        cases.append(CaseFiles(name, raw / "imagesTs" / f"{name}_0000.nii.gz", file, predictions / file.name))
    falling = tuple(math.exp(-k) for k in range(N_EPOCHS))
    rising = tuple(1 - value for value in falling)
    return QuickstartReport(
        title="nnUNetTrainerMMUNet_demo on Dataset900_Phantom",
        labels=select_scored_labels(json.loads((raw / "dataset.json").read_text()))[0],
        scores=evaluate_folder(predictions, raw / "labelsTs", raw / "dataset.json"),
        cases=cases,
        curves=TrainingCurves(falling, falling, rising, rising, (1.0,) * N_EPOCHS),
        facts=[
            ("network parameters", "1,234"),
            ("epochs x iterations", "5 x 2"),
            ("patch (voxels)", "8 x 8 x 8"),
        ],
        stages=[Stage("plan", 61.0, ("nnUNetv2_plan_and_preprocess -d 900",)), Stage("train", 3.0, ())],
        variables=["nnUNet_raw=/some where/raw"],
        versions=[("torch", "2.9 <b>bold</b>")],
    )


@pytest.fixture
def one_case(quickstart_report) -> QuickstartReport:
    return replace(
        quickstart_report,
        cases=quickstart_report.cases[:1],
        scores=[s for s in quickstart_report.scores if s.case == quickstart_report.cases[0].name],
    )


@pytest.fixture
def write_scores(tmp_path):
    def write(scores, name="scores.csv"):
        write_table(scores, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def tiny(write_scores):
    return collect_study_report(ReportRequest([write_scores(tiny_scores())], n_bootstrap=200))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """Table and folder of results of a simulated study."""
    return write_simulated(tmp_path_factory.mktemp("simulated"), n_patients=10, n_pictured=5)


@pytest.fixture(scope="session")
def simulated_report(simulated):
    table, results = simulated
    return collect_study_report(ReportRequest([table], results=results, group=r"patient\d+", n_bootstrap=200))
