"""Fake commands of nnU-Net and `nnunet-mamba evaluate`: their files in their places, in a second.

Called as: fake_nnunet.py PROGRAM ARGUMENTS. Appends its command line to $FAKE_CALLS; the
training's checkpoint is $FAKE_CHECKPOINT. Fails, or waits to be
killed, in the program that $FAKE_TROUBLE names as PROGRAM:fail or PROGRAM:wait.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

say = partial(print, flush=True)

CONFIGURATIONS = ("2d", "3d_fullres")
PLANS = {"configurations": {name: {"data_identifier": f"nnUNetPlans_{name}"} for name in CONFIGURATIONS}}
OF_MODEL = {"plans.json": {"changed by": "the trainer"}, "dataset.json": {"labels": {"background": 0}}}
EPOCH = """2026-01-01 00:00:00.000000: Epoch 0
2026-01-01 00:00:00.000000: train_loss -0.1
2026-01-01 00:00:00.000000: val_loss -0.2
2026-01-01 00:00:00.000000: Pseudo dice [np.float32(0.5), np.float32(nan)]
2026-01-01 00:00:00.000000: Epoch time: 2.0 s"""


def folder(kind: str) -> Path:
    roots = {name: Path(os.environ[f"nnUNet_{name}"]) for name in ("raw", kind)}
    (dataset,) = roots["raw"].glob("Dataset*")
    return roots[kind] / dataset.name


def plan(arguments: list[str]) -> None:
    target = folder("preprocessed")
    assert not target.exists(), "half-made preprocessing must be cleared"
    target.mkdir(parents=True)
    (target / "nnUNetPlans.json").write_text(json.dumps(PLANS))
    shutil.copyfile(folder("raw") / "dataset.json", target / "dataset.json")
    for file in (folder("raw") / "labelsTr").iterdir():
        for kind, suffix in (("gt_segmentations", ".nii.gz"), ("nnUNetPlans_3d_fullres", ".pkl")):
            (target / kind).mkdir(exist_ok=True)
            (target / kind / file.name.replace(".nii.gz", suffix)).write_text("")


def check_preprocessed() -> None:
    files = [file for file in folder("preprocessed").rglob("*") if file.is_file()]
    n_cases = len(list((folder("raw") / "labelsTr").iterdir()))
    assert len([file for file in files if file.suffix != ".lock"]) == 2 + 2 * n_cases, "files are lost"


def train(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold")
    parser.add_argument("-tr")
    parser.add_argument("-p")
    parser.add_argument("-device")
    parser.add_argument("--c", action="store_true")
    parser.add_argument("--val", action="store_true")
    args = parser.parse_args(arguments)
    fold = folder("results") / f"{args.tr}__nnUNetPlans__{args.configuration}" / f"fold_{args.fold}"
    fold.mkdir(parents=True, exist_ok=True)
    check_preprocessed()
    latest, final = fold / "checkpoint_latest.pth", fold / "checkpoint_final.pth"
    if args.val:
        assert final.is_file(), "--val where there is a final checkpoint, and only there"
        validate(fold)
        return
    assert args.c == any(fold.glob("checkpoint_*.pth")), "--c where there is a checkpoint, and only there"
    debug = {
        "num_epochs": "1",
        "num_iterations_per_epoch": "3",
        "batch_size": "2",
        "device": args.device,
        "configuration_manager": "{'patch_size': [8, 16, 16], 'spacing': [2.0, 1.25, 1.25]}",
    }
    (fold / "debug.json").write_text(json.dumps(debug))
    for name, content in OF_MODEL.items():
        (fold.parent / name).write_text(json.dumps(content))
    shutil.copyfile(os.environ["FAKE_CHECKPOINT"], latest)
    say(EPOCH)
    trouble("nnUNetv2_train:later")
    latest.rename(final)
    validate(fold)


def validate(fold: Path) -> None:
    (fold / "validation").mkdir(exist_ok=True)
    check_preprocessed()
    (fold / "validation" / "summary.json").write_text('{"foreground_mean": {"Dice": 0.5}}')


def predict(arguments: list[str]) -> None:
    assert "--disable_tta" not in arguments
    images, answers = (Path(arguments[arguments.index(name) + 1]) for name in ("-i", "-o"))
    (model,) = folder("results").iterdir()
    assert {name: json.loads((model / name).read_text()) for name in OF_MODEL} == OF_MODEL
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    answers.mkdir(exist_ok=True)
    todo = [
        file for file in sorted((images.parent / "labelsTs").iterdir()) if not (answers / file.name).is_file()
    ]
    say(f"That's {len(todo)} cases.")
    for file in todo:
        shutil.copyfile(file, answers / file.name)
    (answers / "dataset.json").write_text("{}")


def evaluate(arguments: list[str]) -> None:
    """Write a table that takes equal files for perfect predictions, others for wrong ones."""
    predictions, references, table = (Path(arguments[k]) for k in (1, 2, -1))
    columns = "dataset trainer plans configuration fold case label label_name metric value n_voxels empty"
    metrics = arguments[arguments.index("--metrics") + 1 : -2]
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*columns.split(), "backend", "version", "protocol"])
        for reference in sorted(references.iterdir()):
            case = reference.name.removesuffix(".nii.gz")
            is_right = (predictions / reference.name).read_bytes() == reference.read_bytes()
            for label, metric in product(("1", "2", "3"), metrics):
                value = is_right if metric == "dice" else 0
                row = (case, label, f"label {label}", metric, int(value), 100, "")
                writer.writerow(["", "", "", "", "test", *row, "fake", "1", "honest"])


def trouble(here: str) -> None:
    wanted = os.environ.get("FAKE_TROUBLE", "")
    if wanted == f"{here}:fail":
        say("Traceback (most recent call last):\n  in train\nRuntimeError: the disc is full")
        sys.exit(3)
    if wanted == f"{here}:wait":
        say("waiting")
        time.sleep(60)


def main() -> None:
    program, *arguments = sys.argv[1:]
    with Path(os.environ["FAKE_CALLS"]).open("a") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    trouble(program)
    programs = {"nnUNetv2_plan_and_preprocess": plan, "nnUNetv2_train": train, "nnUNetv2_predict": predict}
    {**programs, "nnunet-mamba": evaluate}[program](arguments)


if __name__ == "__main__":
    main()
