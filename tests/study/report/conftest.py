import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from simulated_study import write_simulated
from tiny_study import tiny_scores

from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.evaluation import Origin, evaluate_folder, write_table
from nnunet_mamba.study.report import ReportRequest, Stage, build_document, collect_study_report

N_EPOCHS = 5
DATASET = "Dataset900_Phantom"
ORIGIN = Origin(DATASET, "nnUNetTrainerMMUNet_demo", "nnUNetPlans", "3d_fullres", "test")
EPOCH = """2026-01-01 00:00:00.000000: Epoch {epoch}
2026-01-01 00:00:00.000000: train_loss {loss}
2026-01-01 00:00:00.000000: val_loss {loss}
2026-01-01 00:00:00.000000: Pseudo dice [np.float32({dice})]
2026-01-01 00:00:00.000000: Epoch time: 1.0 s
"""


@pytest.fixture(scope="session")
def single_request(tmp_path_factory) -> ReportRequest:
    """One method on four phantoms, whose predictions are the truth moved sideways by 0, 1, 2, 3 voxels."""
    root = tmp_path_factory.mktemp("quickstart")
    raw = write_phantom_dataset(root / "nnUNet_raw" / DATASET, n_train=1, n_test=4, seed=0)
    predictions = root / "predictions"
    predictions.mkdir()
    for shift, file in enumerate(sorted((raw / "labelsTs").iterdir())):
        truth = sitk.ReadImage(str(file))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(truth), shift, axis=2))
        moved.CopyInformation(truth)
        sitk.WriteImage(moved, str(predictions / file.name))
    write_table(evaluate_folder(predictions, raw / "labelsTs", raw / "dataset.json"), root / "results.csv")
    model = "__".join((ORIGIN.trainer, ORIGIN.plans, ORIGIN.configuration))
    fold = root / "nnUNet_results" / DATASET / model / "fold_0"
    fold.mkdir(parents=True)
    losses = [math.exp(-k) for k in range(N_EPOCHS)]
    log = "".join(EPOCH.format(epoch=k, loss=loss, dice=1 - loss) for k, loss in enumerate(losses))
    (fold / "training_log_2026_1_1_00_00_00.txt").write_text(log)
    return ReportRequest(
        tables=[root / "results.csv"],
        results=root / "nnUNet_results" / DATASET,
        predictions=[predictions],
        references=raw / "labelsTs",
        origin=ORIGIN,
        command="nnunet-mamba quickstart",
        facts=[
            ("network parameters", "1,234"),
            ("epochs x iterations", "5 x 2"),
            ("patch (voxels)", "8 x 8 x 8"),
            ("device", "abacus <b>bold</b>"),
        ],
        stages=[Stage("plan", 61.0, ("nnUNetv2_plan_and_preprocess -d 900",)), Stage("train", 3.0, ())],
        variables=["nnUNet_raw=/some where/raw"],
    )


@pytest.fixture(scope="session")
def single_report(single_request):
    return collect_study_report(single_request)


@pytest.fixture
def keep_cases(single_report):
    """Return a function that gives the report on the first cases alone."""

    def keep(n: int):
        names = sorted({s.case for s in single_report.scores})[:n]
        return replace(single_report, scores=[s for s in single_report.scores if s.case in names])

    return keep


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


@pytest.fixture(scope="session")
def simulated_document(simulated_report):
    return build_document(simulated_report)
