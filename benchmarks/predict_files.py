"""Comparison of all that a prediction does around the network, from file to file, with nnU-Net's own code.

    python benchmarks/predict_files.py --record benchmarks/results/predict_files
    python benchmarks/predict_files.py --cases hippocampus "CT 200 slices"
    python benchmarks/predict_files.py --device cuda --record benchmarks/results/predict_files_cuda

Images and logits are phantoms: ellipsoids with noise, as many as there are labels, so that boundaries are as
long as organs have them; `noise` has none but boundaries. Preparation (read, crop, normalise, resample) and
export (resample logits, decide, write) run each in a process of its own, nnU-Net's and ours in turn, and
report the seconds of their stages and the largest memory they held. Labels are compared voxel by voxel.
Neither side reads or writes in parallel, and network and imports are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from records import heading, publish, surroundings

IMAGE = "case_0000.nii.gz"
ORDERS = {"data": 3, "seg": 1, "probabilities": 1}
CT = {"mean": 50.0, "std": 150.0, "percentile_00_5": -900.0, "percentile_99_5": 400.0}


@dataclass(frozen=True)
class Scene:
    """Image and model: shape (z, y, x) and spacing in mm of the image, spacing of the network, labels."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    target: tuple[float, ...]
    n_labels: int
    normalization: str = "CTNormalization"
    is_noise: bool = False

    @property
    def logits_shape(self) -> tuple[int, int, int]:
        target = (*self.spacing[: 3 - len(self.target)], *self.target)
        old = zip(self.shape, self.spacing, target, strict=True)
        return tuple(round(n * mm / wanted) for n, mm, wanted in old)  # type: ignore[return-value]


FINE, COARSE = (1.0, 0.7, 0.7), (1.5, 1.5, 1.5)
SCENES = {
    "hippocampus": Scene((36, 50, 35), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 3, "ZScoreNormalization"),
    "2D, 12 slices": Scene((12, 256, 216), (10.0, 1.4, 1.4), (1.5, 1.5), 4, "ZScoreNormalization"),
    "anisotropic": Scene((120, 512, 512), (5.0, 0.8, 0.8), (3.0, 0.76, 0.76), 14),
    "CT 100 slices": Scene((100, 512, 512), FINE, COARSE, 16),
    "CT 200 slices": Scene((200, 512, 512), FINE, COARSE, 16),
    "CT 400 slices": Scene((400, 512, 512), FINE, COARSE, 16),
    "CT 200 slices, 4 labels": Scene((200, 512, 512), FINE, COARSE, 4),
    "CT 200 slices, 60 labels": Scene((200, 512, 512), FINE, COARSE, 60),
    "CT 100 slices, noise": Scene((100, 512, 512), FINE, COARSE, 16, is_noise=True),
}
LARGE = {  # ours alone: nnU-Net would take more memory than most machines have
    "CT 800 slices, 60 labels": Scene((800, 512, 512), FINE, COARSE, 60),
}


def plans_of(scene: Scene) -> dict[str, Any]:
    configuration = {
        "spacing": list(scene.target),
        "preprocessor_name": "DefaultPreprocessor",
        "normalization_schemes": [scene.normalization],
        "use_mask_for_norm": [False],
        "architecture": {"network_class_name": "", "arch_kwargs": {}},
    }
    for kind, order in ORDERS.items():
        how = {"is_seg": kind == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration |= {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape"}
        configuration |= {f"resampling_fn_{kind}_kwargs": how}
    return {
        "dataset_name": "Dataset999_Phantom",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": CT},
        "configurations": {"phantom": configuration},
    }


def dataset_of(scene: Scene) -> dict[str, Any]:
    labels = {"background": 0, **{f"organ {k}": k for k in range(1, scene.n_labels)}}
    return {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "labels": labels}


def ellipsoids(shape: tuple[int, ...], n: int) -> Iterator[np.ndarray]:
    """Yield signed distances, about -1 at the centre, of random ellipsoids, the same for every shape."""
    rng = np.random.default_rng(0)
    grid = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    for _ in range(n):
        centre, radii = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.08, 0.3, 3)
        terms = [((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True)]
        yield np.sqrt(sum(terms, np.zeros(shape, np.float32)), dtype=np.float32) - 1


def make_image(scene: Scene, file: Path) -> None:
    import SimpleITK as sitk

    rng = np.random.default_rng(1)
    values = rng.normal(0, 20, scene.shape).astype(np.float32)
    for k, distance in enumerate(ellipsoids(scene.shape, scene.n_labels - 1)):
        values[distance < 0] = 20 * (k % 10)
    image = sitk.GetImageFromArray((values + 1).astype(np.int16))
    image.SetSpacing(scene.spacing[::-1])
    sitk.WriteImage(image, str(file), True)


def make_logits(scene: Scene, file: Path) -> None:
    rng = np.random.default_rng(2)
    shape = (scene.n_labels, *scene.logits_shape)
    logits = np.lib.format.open_memmap(file, "w+", np.float16, shape)
    background = np.full(shape[1:], 8, np.float32)
    for k, distance in enumerate(ellipsoids(shape[1:], scene.n_labels - 1), 1):
        inside = np.clip(-20 * distance, -8, 8) if not scene.is_noise else np.zeros(shape[1:], np.float32)
        background = np.minimum(background, -inside)
        logits[k] = inside + rng.normal(0, 0.3, shape[1:])
    logits[0] = background if not scene.is_noise else rng.normal(0, 0.3, shape[1:])


@contextmanager
def clocks(places: list[tuple[Any, str, str]]) -> Iterator[dict[str, float]]:
    """Measure the seconds within functions: (module or class, name, stage)."""
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        for owner, name, stage in places:
            original = vars(owner)[name]

            def timed(*args: Any, _original: Any = original, _stage: str = stage, **options: Any) -> Any:
                start = time.perf_counter()
                try:
                    return _original(*args, **options)
                finally:
                    seconds[_stage] = seconds.get(_stage, 0) + time.perf_counter() - start

            setattr(owner, name, timed)
            stack.callback(setattr, owner, name, original)
        yield seconds


def measure(who: str, part: str, scene: Scene, folder: Path, device: str) -> dict[str, Any]:
    """Run one part of a prediction in this process: the seconds of its stages, and memory in bytes."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(plans_of(scene))
    model = (plans, plans.get_configuration("phantom"), dataset_of(scene))
    run, save, places = PARTS[who, part](model, folder, device)
    before = peak_memory()
    with clocks(places) as stages:
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
    measured = {"seconds": seconds, "stages": stages, "before": before, "peak": peak_memory()}
    save(result)
    return measured


def prepare_by_nnunet(model: tuple, folder: Path, device: str) -> tuple:
    from nnunetv2.preprocessing.preprocessors import default_preprocessor as module
    from nnunetv2.preprocessing.resampling import default_resampling

    def save(result: tuple) -> None:
        np.save(folder / "stock.npy", result[0])
        (folder / "properties.json").write_text(json.dumps(result[2], default=list))

    preprocessor = module.DefaultPreprocessor(verbose=False)
    places = [*around_reader(), (module, "crop_to_nonzero", "crop")]
    places += [(default_resampling, "resample_data_or_seg", "resample")]
    return lambda: preprocessor.run_case([str(folder / IMAGE)], None, *model), save, places


def prepare(model: tuple, folder: Path, device: str) -> tuple:
    from nnunet_mamba.inference import preprocessing as module

    places = [*around_reader(), (module, "find_nonzero_box", "crop"), (module, "resample_image", "resample")]
    return (
        lambda: module.preprocess_case([str(folder / IMAGE)], None, *model),
        lambda result: np.save(folder / "ours.npy", result[0].numpy()),
        places,
    )


def around_reader() -> list[tuple[Any, str, str]]:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    return [(SimpleITKIO, "read_images", "read"), (DefaultPreprocessor, "_normalize", "normalise")]


def export_by_nnunet(model: tuple, folder: Path, device: str) -> tuple:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.preprocessing.resampling import default_resampling
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    places = [
        (default_resampling, "resample_data_or_seg", "resample"),
        (LabelManager, "convert_logits_to_segmentation", "label"),
        (SimpleITKIO, "write_seg", "write"),
    ]
    logits = np.load(folder / "logits.npy")
    return lambda: run_export(export_prediction_from_logits, logits, model, folder / "stock"), ignore, places


def export(model: tuple, folder: Path, device: str) -> tuple:
    import torch

    from nnunet_mamba.inference import export as module
    from nnunet_mamba.inference.resampling import Resampling

    labels = model[0].get_label_manager(model[2])
    tiny = Resampling((1, 1, 1), (1, 1, 1), 1, 0, None)  # loads the kernels from numba's cache
    module.decide(torch.zeros(1, 1, 1, 1, device=device).half(), tiny, labels, np.zeros((1, 1, 1), np.uint8))
    places = [(module, "segment", "label"), (module.Exporter, "write", "write")]
    logits = torch.from_numpy(np.load(folder / "logits.npy")).to(device)
    return lambda: run_export(module.export_prediction, logits, model, folder / "ours"), ignore, places


def run_export(function: Callable[..., None], logits: Any, model: tuple, target: Path) -> None:
    plans, configuration, dataset = model
    properties = json.loads((target.parent / "properties.json").read_text())
    function(logits, properties, configuration, plans, dataset, str(target))


def ignore(result: object) -> None:
    """Save nothing: an export has written its files."""


PARTS = {
    ("stock", "prepare"): prepare_by_nnunet,
    ("stock", "export"): export_by_nnunet,
    ("ours", "prepare"): prepare,
    ("ours", "export"): export,
}


def peak_memory() -> int:
    """The largest memory that this process has held since its program began, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def in_process(who: str, part: str, name: str, folder: Path, device: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", who, part, name, str(folder), device]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare(name: str, turns: int, folder: Path, device: str) -> dict[str, Any]:
    """Measure a scene by nnU-Net and by us in turn; the middle turn of each."""
    scene = {**SCENES, **LARGE}[name]
    make_image(scene, folder / IMAGE)
    make_logits(scene, folder / "logits.npy")
    sides = ("ours",) if name in LARGE else ("stock", "ours")
    if name in LARGE:  # the properties that nnU-Net would note
        write_properties(scene, folder)
    runs: dict[str, list[dict]] = {f"{who} {part}": [] for who in sides for part in ("prepare", "export")}
    for _ in range(turns):
        for part in ("prepare", "export"):
            for who in sides:
                runs[f"{who} {part}"].append(in_process(who, part, name, folder, device))
    middle = {key: sorted(of, key=lambda run: run["seconds"])[len(of) // 2] for key, of in runs.items()}
    return {"scene": name, **asdict(scene), "runs": middle, **differences(folder, sides)}


def write_properties(scene: Scene, folder: Path) -> None:
    properties = {
        "spacing": scene.spacing,
        "sitk_stuff": {
            "spacing": scene.spacing[::-1],
            "origin": (0.0, 0.0, 0.0),
            "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        },
        "shape_before_cropping": scene.shape,
        "bbox_used_for_cropping": [[0, n] for n in scene.shape],
        "shape_after_cropping_and_before_resampling": scene.shape,
    }
    (folder / "properties.json").write_text(json.dumps(properties))


def differences(folder: Path, sides: tuple[str, ...]) -> dict[str, Any]:
    """Compare what both have made: voxels with another label, and the largest difference of an image."""
    if len(sides) < 2:
        return {"other_labels": None, "voxels": None, "image_difference": None}
    import SimpleITK as sitk

    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{who}.nii.gz"))) for who in sides]
    images = [np.load(folder / f"{who}.npy", mmap_mode="r") for who in sides]
    return {
        "other_labels": int((labels[0] != labels[1]).sum()),
        "voxels": labels[0].size,
        "image_difference": float(np.abs(images[0] - images[1]).max()),
    }


def page(record: dict[str, Any]) -> str:
    lines = [
        "| | prepare (s) | | export (s) | | both | peak memory (GB) | | | other labels |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| | nnU-Net | ours | nnU-Net | ours | times as fast | nnU-Net | ours | share | of voxels |",
    ]
    for row in record["rows"]:
        runs = row["runs"]
        ours = [runs[f"ours {part}"] for part in ("prepare", "export")]
        our_peak = max(run["peak"] for run in ours)
        if "stock export" not in runs:
            cells = [" ", f"{ours[0]['seconds']:.2f}", " ", f"{ours[1]['seconds']:.2f}", " ", " "]
            lines.append(f"| {row['scene']} | {' | '.join(cells)} | {our_peak / 2**30:.2f} | | |")
            continue
        stock = [runs[f"stock {part}"] for part in ("prepare", "export")]
        peak = max(run["peak"] for run in stock)
        faster = sum(run["seconds"] for run in stock) / sum(run["seconds"] for run in ours)
        cells = [f"{run['seconds']:.2f}" for pair in zip(stock, ours, strict=True) for run in pair]
        cells += [f"{faster:.0f}", f"{peak / 2**30:.2f}", f"{our_peak / 2**30:.2f}", f"{our_peak / peak:.2f}"]
        lines.append(f"| {row['scene']} | {' | '.join(cells)} | {row['other_labels']} of {row['voxels']} |")
    load = ", ".join(f"{one:.1f}" for one in record["load_average"])
    images = [row["image_difference"] for row in record["rows"] if row["image_difference"] is not None]
    return (
        f"{heading(record)} Median of {record['turns']} turns each, in turn; load average before and after "
        f"{load}. Memory: the largest that a process held, imports included (nnU-Net's 0.7 GB, ours "
        f"1.0 GB). Preprocessed "
        f"images differ by {max(images, default=0):.1e} at most.\n\n" + "\n".join(lines) + "\n\n"
    ) + stages(record)


def stages(record: dict[str, Any]) -> str:
    """Table of the seconds per stage."""
    names = ["read", "crop", "normalise", "resample", "label", "write"]
    lines = [f"| seconds | | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for row in record["rows"]:
        for key, run in row["runs"].items():
            cells = [f"{run['stages'][name]:.2f}" if name in run["stages"] else "" for name in names]
            lines.append(f"| {row['scene']} | {key.replace('stock', 'nnU-Net')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=[*SCENES, *LARGE], default=list(SCENES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of our export's logits")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = options()
    if args.measure:
        who, part, name, folder, device = args.measure
        print(json.dumps(measure(who, part, {**SCENES, **LARGE}[name], Path(folder), device)))
        return
    load, rows = os.getloadavg()[0], []
    for name in args.cases:
        with TemporaryDirectory() as folder:
            rows.append(compare(name, args.turns, Path(folder), args.device))
        print(name, {key: round(run["seconds"], 2) for key, run in rows[-1]["runs"].items()}, flush=True)
    numbers = {"turns": args.turns, "load_average": [load, os.getloadavg()[0]], "rows": rows}
    record = {**surroundings(args.device), **numbers}
    publish(record, page(record), args.record)


if __name__ == "__main__":
    main()
