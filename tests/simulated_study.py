"""Simulated study: random scores, logs and label maps, in the files of `evaluate` and nnU-Net."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_mamba.study.evaluation import Score, write_table

DATASET = "Dataset027_ACDC"
LABELS = ("right ventricle", "myocardium", "left ventricle")
GAINS = {"": 0.0, "MMUNet": 0.012, "MMUNet_NoSSM": 0.011, "UMambaBot": 0.002, "VMUNet": -0.03}
METRICS = {"dice": 1.0, "nsd": 1.0, "hd95": -120.0}  # and how much of each a gain in Dice is worth
N_FOLDS = 5
SHAPE = (8, 40, 44)
EPOCH_S = {"": 40, "MMUNet": 95, "MMUNet_NoSSM": 60, "UMambaBot": 70, "VMUNet": 50}


def simulated_scores(n_patients: int = 40, labels: tuple[str, ...] = LABELS, seed: int = 8) -> list[Score]:
    """Return scores of two frames per patient; the network without SSM is as good as with it, up to noise."""
    rng = np.random.default_rng(seed)
    easy = np.repeat(rng.normal(0.90, 0.03, (n_patients, len(labels))), 2, axis=0)
    easy -= np.linspace(0, 0.08, len(labels))
    scores = []
    for trainer, gain in GAINS.items():
        by_fold = rng.normal(0, 0.003, N_FOLDS)
        for i, case in enumerate(case_names(n_patients)):
            fold = i // 2 % N_FOLDS
            for k, name in enumerate(labels):
                dice = easy[i, k] + gain + by_fold[fold] + rng.normal(0, 0.012)
                missed = rng.random() < 0.0015
                values = {
                    "dice": float(np.clip(dice, 0, 0.99)) * (not missed),
                    "nsd": float(np.clip(dice + 0.03, 0, 1)) * (not missed),
                    "hd95": 180.0 if missed else float(max(1, 14 - 120 * (dice - 0.85))),
                }
                origin = (DATASET, f"nnUNetTrainer{trainer}", "nnUNetPlans", "3d_fullres", str(fold))
                scores += [
                    Score(
                        case, str(k + 1), name, metric, value, 1000, "", *origin, "monai", "1.6.1", "honest"
                    )
                    for metric, value in values.items()
                ]
    return scores


def case_names(n_patients: int) -> list[str]:
    return [f"patient{p:03d}_frame{f:02d}" for p in range(1, n_patients + 1) for f in (1, 12)]


def write_simulated(folder: Path, n_patients: int = 40, n_pictured: int = 10) -> tuple[Path, Path]:
    """Write the table and nnU-Net's three folders; return the table and the dataset's results."""
    table = folder / "acdc.csv"
    write_table(simulated_scores(n_patients), table)
    results = folder / "nnUNet_results" / DATASET
    cases = case_names(n_patients)[:n_pictured]
    _write_raw(folder / "nnUNet_raw" / DATASET, cases)
    splits = [{"train": [], "val": cases[fold::N_FOLDS]} for fold in range(N_FOLDS)]
    preprocessed = folder / "nnUNet_preprocessed" / DATASET
    preprocessed.mkdir(parents=True)
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for trainer in GAINS:
        model = results / f"nnUNetTrainer{trainer}__nnUNetPlans__3d_fullres"
        for fold in range(N_FOLDS):
            _write_fold(model / f"fold_{fold}", trainer, fold, splits[fold]["val"])
        (model / "dataset.json").write_text(json.dumps(_description()))
    return table, results


def log_text(trainer: str, fold: int, n_epochs: int = 50) -> str:
    """Return a training log in nnU-Net's format."""
    rng = np.random.default_rng([fold, *trainer.encode()])
    lines = ["", "#####", "This is the configuration used by this training:"]
    for epoch in range(n_epochs):
        level = 1 - np.exp(-(epoch + 1) / 12)
        dice = [level * (0.9 + GAINS[trainer]) + rng.normal(0, 0.02) for _ in LABELS]
        values = ", ".join(f"np.float32({value:.4f})" for value in dice)
        lines += [
            f"Epoch {epoch} ",
            "Current learning rate: 0.01 ",
            f"train_loss {0.2 - level + rng.normal(0, 0.01):.4f} ",
            f"val_loss {0.25 - 0.95 * level + rng.normal(0, 0.03):.4f} ",
            f"Pseudo dice [{values}] ",
            f"Epoch time: {EPOCH_S[trainer] + rng.normal(0, 1):.2f} s ",
        ]
    return "\n".join(f"2026-01-01 10:00:00.000001: {line}" if line[:1].isalpha() else line for line in lines)


def heart(seed: int) -> np.ndarray:
    """Return a label map of two ventricles and a wall, moved a little by `seed`."""
    shift = np.random.default_rng(seed).normal(0, 1.2, 2)
    z, y, x = np.indices(SHAPE)
    left = np.hypot(y - 20 - shift[0], x - 26 - shift[1])
    labels = np.where(left < 6, 3, np.where(left < 9.5, 2, 0))
    right = np.hypot((y - 19 - shift[0]) / 1.3, x - 12 - shift[1]) < 6
    labels = np.where(right & (labels == 0), 1, labels)
    return np.where((z > 0) & (z < SHAPE[0] - 1), labels, 0).astype(np.uint8)


def _write_raw(raw: Path, cases: list[str]) -> None:
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, case in enumerate(cases):
        labels = heart(i)
        grey = np.choose(labels, (60, 170, 100, 190)) + rng.normal(0, 14, SHAPE)
        _write(grey.astype(np.float32), raw / "imagesTr" / f"{case}_0000.nii.gz")
        _write(labels, raw / "labelsTr" / f"{case}.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(_description()))


def _write_fold(folder: Path, trainer: str, fold: int, cases: list[str]) -> None:
    (folder / "validation").mkdir(parents=True)
    (folder / f"training_log_2026_1_1_10_00_0{fold}.txt").write_text(log_text(trainer, fold))
    facts = {"device": "cuda", "gpu_name": "simulated GPU", "hostname": "secret", "initial_lr": "0.01"}
    (folder / "debug.json").write_text(json.dumps(facts))
    for i, case in enumerate(cases):
        _write(heart(5 * i + fold + 1), folder / "validation" / f"{case}.nii.gz")


def _write(array: np.ndarray, file: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.5, 8.0))
    sitk.WriteImage(image, str(file))


def _description() -> dict[str, object]:
    labels = {"background": 0} | {name: i for i, name in enumerate(LABELS, start=1)}
    return {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 10}
