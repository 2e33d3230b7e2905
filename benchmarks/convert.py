"""Time converting a Decathlon task, with every file checked, beside a plain copy and nnU-Net's own converter.

    python benchmarks/convert.py --data Task04_Hippocampus --record benchmarks/results/convert

Each way runs once in every round, in turn; best of the rounds. "CT" is a task made here: noisy volumes of
512 x 512 x 96 voxels of 16 bits, as abdominal data sets have them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from records import heading, surroundings, write

from nnunet_mamba.study.datasets.convert import convert_dataset
from nnunet_mamba.study.datasets.readers import read_decathlon
from nnunet_mamba.study.datasets.source import read_description
from nnunet_mamba.study.datasets.splits import build_group_fn, make_split

N_CT = 6


def make_ct(folder: Path) -> Path:
    """Write Task99_CT: organs as blocks in noise."""
    rng = np.random.default_rng(0)
    pairs = []
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    for k in range(N_CT):
        label = np.zeros((96, 512, 512), np.uint8)
        label[20:70, 100:300, 150 : 250 + 10 * k] = 1
        image = (rng.normal(0, 20, label.shape) + 100 * label).astype(np.int16)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / part / f"ct_{k}.nii.gz"))
        pairs.append({"image": f"./imagesTr/ct_{k}.nii.gz", "label": f"./labelsTr/ct_{k}.nii.gz"})
    description = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps({"name": "CT", "test": [], **description}))
    return folder


def ours(task: Path, target: Path, *, link: bool, workers: int) -> None:
    source = read_decathlon(task, read_description(task))
    split = make_split("5fold", source, build_group_fn(None))
    convert_dataset(source, target / source.name, split, link=link, workers=workers)


def nnunets(task: Path, target: Path) -> None:
    from nnunetv2.dataset_conversion.convert_MSD_dataset import convert_msd_dataset

    os.environ.update(nnUNet_raw=str(target))
    convert_msd_dataset(str(task), num_processes=os.cpu_count() or 1)


def seconds(work: Callable[[Path], object], workspace: Path) -> float:
    target = Path(tempfile.mkdtemp(dir=workspace))
    start = time.perf_counter()
    work(target)
    spent = time.perf_counter() - start
    shutil.rmtree(target)
    return spent


def compare(task: Path, workspace: Path, rounds: int) -> dict[str, float]:
    n = os.cpu_count() or 1
    ways: dict[str, Callable[[Path], object]] = {
        "plain copy": lambda target: shutil.copytree(task, target / "copy"),
        "convert": lambda target: ours(task, target, link=False, workers=n),
        "convert, 1 thread": lambda target: ours(task, target, link=False, workers=1),
        "convert --symlink": lambda target: ours(task, target, link=True, workers=n),
        "nnU-Net's converter": lambda target: nnunets(task, target),
    }
    times = [{name: seconds(work, workspace) for name, work in ways.items()} for _ in range(rounds)]
    return {name: min(row[name] for row in times) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a Decathlon task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    record = {**surroundings("cpu"), "rows": []}
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        hippocampus = Path(shutil.copytree(args.data, workspace / args.data.name))
        (hippocampus / "imagesTs").mkdir(exist_ok=True)  # nnU-Net's converter asks for it
        description = read_description(hippocampus)
        (hippocampus / "dataset.json").write_text(json.dumps({"test": [], **description}))
        for task in (hippocampus, make_ct(workspace / "Task99_CT")):
            files = list(task.rglob("*.nii.gz"))
            n_bytes = sum(file.stat().st_size for file in files)
            for way, spent in compare(task, workspace, args.rounds).items():
                row = {"task": task.name, "cases": len(files) // 2, "way": way, "seconds": spent}
                record["rows"].append({**row, "mb": n_bytes / 1e6})
                print(json.dumps(record["rows"][-1]), flush=True)
    if args.record:
        write(args.record, record, page(record))


def page(record: dict) -> str:
    lines = [
        heading(record),
        "",
        "| task | way | s | cases/s | MB/s | / plain copy |",
        "|---|---|---|---|---|---|",
    ]
    plain = {row["task"]: row["seconds"] for row in record["rows"] if row["way"] == "plain copy"}
    for row in record["rows"]:
        s = row["seconds"]
        lines.append(
            f"| {row['task']}, {row['cases']} cases, {row['mb']:.0f} MB | {row['way']} | {s:.2f} "
            f"| {row['cases'] / s:.0f} | {row['mb'] / s:.1f} | {s / plain[row['task']]:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
