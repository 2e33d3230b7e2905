"""Plans of `nnunet-mamba plans make` for published fingerprints, compared with nnU-Net's own planner.

    python benchmarks/planner.py --record benchmarks/results/planner

writes <record>.json and the table <record>.md. A dataset is its fingerprint here: every case has the median
spacing and shape. Nothing is trained, and no card is asked: memory is that of `nnunet-mamba estimate` on the
profile `cuda`, which counts tensors alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records import heading, surroundings, write

NETWORKS = ("mm_unet", "umamba_bot", "umamba_enc")
CARDS_GB = (8, 24)


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of a dataset: median spacing and shape, axis 0 the coarsest; n training cases."""

    spacing_mm: tuple[float, float, float]
    shape: tuple[float, float, float]
    n: int
    classes: int  # background included
    channels: tuple[str, ...] = ("CT",)
    size_after_crop: float = 1.0  # relative; below 3/4 the intensities are normalised within the body


# Spacings and shapes of published plans; AMOS and FLARE are approximate.
FINGERPRINTS = {
    "BTCV": Fingerprint((3.0, 0.758, 0.758), (148, 512, 512), 30, 14),
    "ACDC": Fingerprint((6.35, 1.5234, 1.5234), (13, 246, 213), 200, 4, ("cineMRI",)),
    "BraTS": Fingerprint((1, 1, 1), (138, 169.5, 138), 484, 4, ("FLAIR", "T1w", "t1gd", "T2w"), 0.5),
    "AMOS": Fingerprint((2.0, 0.713, 0.713), (237, 512, 512), 360, 16),
    "FLARE": Fingerprint((2.5, 0.79, 0.79), (97, 512, 512), 50, 14),
}


def write_dataset(root: Path, number: int, name: str, fingerprint: Fingerprint) -> str:
    """Write nnU-Net's folders with a dataset of that fingerprint and no images, and return its name."""
    dataset = f"Dataset{number:03d}_{name}"
    raw, preprocessed = root / "raw" / dataset, root / "preprocessed" / dataset
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    description = {
        "channel_names": {str(i): channel for i, channel in enumerate(fingerprint.channels)},
        "labels": {"background": 0, **{f"label_{i}": i for i in range(1, fingerprint.classes)}},
        "numTraining": fingerprint.n,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {f"case_{i}": {"images": ["none"], "label": "none"} for i in range(fingerprint.n)},
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    measured = {
        "spacings": [fingerprint.spacing_mm] * fingerprint.n,
        "shapes_after_crop": [fingerprint.shape] * fingerprint.n,
        "median_relative_size_after_cropping": fingerprint.size_after_crop,
        "foreground_intensity_properties_per_channel": {
            str(i): {"mean": 0.0, "std": 1.0, "percentile_00_5": -1.0, "percentile_99_5": 1.0}
            for i in range(len(fingerprint.channels))
        },
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(measured))
    return dataset


def nnunets_plans(dataset: str) -> dict[str, Any]:
    """Plan with nnU-Net's default planner for 8 GB, its network on torch's meta device."""
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset

    with redirect_stdout(io.StringIO()), torch.device("meta"):
        plans, _ = plan_experiment_dataset(dataset)
    return plans


def row(dataset: str, planner: str, card_gb: float, plans: dict[str, Any], took_s: float) -> dict[str, Any]:
    found = {"dataset": dataset, "planner": planner, "card_gb": card_gb, "seconds": took_s}
    for name in ("2d", "3d_fullres", "3d_lowres"):
        own = plans["configurations"].get(name)
        found[name] = own and {
            "patch": list(own["patch_size"]),
            "batch": own["batch_size"],
            "stages": len(own["architecture"]["arch_kwargs"]["strides"]),
            "spacing": list(own["spacing"]),
        }
    return found


def measure(root: Path, names: list[str], networks: list[str]) -> list[dict[str, Any]]:
    from nnunet_mamba.memory.profile import load_profile
    from nnunet_mamba.plans.planner import make_plans

    profile, rows = load_profile("cuda"), []
    for number, name in enumerate(names, start=901):
        dataset = write_dataset(root, number, name, FINGERPRINTS[name])
        start = time.perf_counter()
        rows.append(row(name, "nnU-Net", 8, nnunets_plans(dataset), time.perf_counter() - start))
        for network in networks:
            for card_gb in CARDS_GB:
                start = time.perf_counter()
                plans = make_plans(dataset, network, card_gb, profile, replace=True).plans
                rows.append(row(name, network, card_gb, plans, time.perf_counter() - start))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def cell(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    return f"{'x'.join(map(str, found['patch']))} b{found['batch']}, {found['stages']} stages"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| dataset | planner | card (GB) | 3d_fullres | 3d_lowres | 2d | planned in (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        cells = " | ".join(cell(one[name]) for name in ("3d_fullres", "3d_lowres", "2d"))
        planner = one["planner"] if one["planner"] == "nnU-Net" else f"`{one['planner']}`"
        lines.append(f"| {one['dataset']} | {planner} | {one['card_gb']} | {cells} | {one['seconds']:.0f} |")
    return "\n".join(lines)


def page(record: dict[str, Any]) -> str:
    return (
        f"{heading(record)}\n\n{record['reserve']:.0%} of the card is kept free, unmeasured; memory is that "
        f"of the profile `cuda`, tensors alone, float16. nnU-Net's planner has its own estimate, for its own "
        f"network.\n\n{table(record['rows'])}\n"
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="*", choices=[[], *FINGERPRINTS], help="default: all")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    return parser.parse_args()


def main() -> None:
    args = options()
    with tempfile.TemporaryDirectory() as root:
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(Path(root) / name)
        os.environ |= {"nnUNet_n_proc_DA": "1"}  # nnU-Net's own planner breaks at 0
        from nnunet_mamba.plans.memory import RESERVE

        rows = measure(Path(root), args.datasets or list(FINGERPRINTS), args.networks)
    record = {**surroundings("cpu"), "reserve": RESERVE, "rows": rows}
    print(page(record))
    if args.record:
        write(args.record, record, page(record))
        print(f"-> {args.record}.json, {args.record}.md")


if __name__ == "__main__":
    main()
