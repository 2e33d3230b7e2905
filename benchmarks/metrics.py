"""Surface metrics against scipy's dense transforms, DeepMind's surface-distance and medpy: agreement, time.

    pip install --no-deps --target OTHERS medpy surface-distance-based-measures
    python benchmarks/metrics.py --others OTHERS --record benchmarks/results/metrics

Agreement is the largest difference over pairs of random blobs, which overlap or do not, on isotropic and
anisotropic grids. Time is the processor's, in one thread, for one organ and all the metrics that a
package has, so that other load does not count; best of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from records import heading, surroundings, write
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from surface_reference import blobs, reference_metrics

from nnunet_mamba.study.evaluation.labels import Label
from nnunet_mamba.study.evaluation.masks import LabelMapPair, MaskPair
from nnunet_mamba.study.evaluation.metrics import METRICS
from nnunet_mamba.study.evaluation.protocols import PROTOCOLS
from nnunet_mamba.study.evaluation.surfaces import pooled_percentile_mm, weighted_percentile_mm

SPACINGS_MM = ((1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.7, 1.3, 2.9))
GRID = (40, 48, 44)
TOLERANCE_MM = 2.0
Masks = tuple[np.ndarray, np.ndarray, tuple[float, ...]]
ORGAN = Label("organ", (1,))
VOXELWISE = [name for name, metric in METRICS.items() if metric.kind != "instances"]  # all but F1


def pair_of(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> MaskPair:
    return LabelMapPair(p.view(np.uint8), r.view(np.uint8), spacing_mm).pair(ORGAN, TOLERANCE_MM)


def ours(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """Return all metrics but F1, and two that belong to protocols."""
    pair = pair_of(p, r, spacing_mm)
    found = {metric: PROTOCOLS["honest"].value(metric, pair) for metric in VOXELWISE}
    found["weighted_hd95"] = weighted_percentile_mm(pair.surfels, 95)
    return {**found, "medpy_hd95": pooled_percentile_mm(pair.voxels, 95)}


def deepminds(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    import surface_distance

    found = surface_distance.compute_surface_distances(r, p, spacing_mm)
    return {
        "nsd": surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        "weighted_hd95": surface_distance.compute_robust_hausdorff(found, 95),
        "dice": surface_distance.compute_dice_coefficient(r, p),
    }


def medpys(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    from medpy.metric import binary

    return {
        "dice": binary.dc(p, r),
        "iou": binary.jc(p, r),
        "precision": binary.precision(p, r),
        "sensitivity": binary.sensitivity(p, r),
        "specificity": binary.specificity(p, r),
        "hd100": binary.hd(p, r, spacing_mm),
        "medpy_hd95": binary.hd95(p, r, spacing_mm),
        "assd": binary.assd(p, r, spacing_mm),
        "asd": binary.asd(p, r, spacing_mm),
    }


def monais(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    """Return the metrics by MONAI's own functions, each with distances of its own."""
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    images = [torch.from_numpy(mask)[None, None] for mask in (p, r)]
    options = {"include_background": True, "spacing": list(spacing_mm)}
    found = {
        "hd95": compute_hausdorff_distance(*images, percentile=95, **options),
        "hd100": compute_hausdorff_distance(*images, **options),
        "assd": compute_average_surface_distance(*images, symmetric=True, **options),
        "asd": compute_average_surface_distance(*images, **options),
        "nsd": compute_surface_dice(*images, [TOLERANCE_MM], use_subvoxels=True, **options),
    }
    return {metric: float(value) for metric, value in found.items()}


def differences(others: dict[str, Callable[..., dict[str, float]]], n: int) -> list[dict]:
    """Return the largest difference of each metric from each package."""
    largest: dict[tuple[str, str], list[float]] = {}
    for seed in range(n):
        spacing_mm = SPACINGS_MM[seed % len(SPACINGS_MM)]
        p, r = blobs(np.random.default_rng(seed), GRID)
        mine = ours(p, r, spacing_mm)
        for name, other in others.items():
            for metric, value in other(p, r, spacing_mm).items():
                largest.setdefault((name, metric), []).append(abs(mine[metric] - value))
    return [
        {"package": name, "metric": metric, "pairs": len(found), "largest_difference": max(found)}
        for (name, metric), found in largest.items()
    ]


def spheres(size: int) -> Masks:
    axes = np.indices((size,) * 3, np.int32)
    p, r = (sum((x - size // 2 - shift) ** 2 for x in axes) < (size * 15 // 64) ** 2 for shift in (0, 3))
    return p, r, (1.0, 1.0, 1.0)


def far_false_positive() -> Masks:
    """Return row F: a ball of radius 20 found exactly, and a false positive ball of radius 5."""
    axes = np.indices((50, 50, 80))
    near, far = (
        sum((x - c) ** 2 for x, c in zip(axes, at, strict=True)) for at in ((25, 25, 22), (25, 25, 66))
    )
    return (near <= 400) | (far <= 25), near <= 400, (1.0, 1.0, 1.0)


def organs(size: int, n: int = 15) -> LabelMapPair:
    """Return label maps of 15 ellipsoids, each moved by two voxels."""
    rng = np.random.default_rng(0)
    reference = np.zeros((size,) * 3, np.uint8)
    for number in range(1, n + 1):
        centre, radii = rng.uniform(0.2, 0.8, 3) * size, rng.uniform(0.04, 0.16, 3) * size
        here = tuple(slice(int(c - r), int(c + r) + 1) for c, r in zip(centre, radii, strict=True))
        axes = np.meshgrid(*(np.arange(s.start, s.stop) for s in here), indexing="ij")
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)) < 1
        reference[here][inside] = number
    return LabelMapPair(np.roll(reference, 2, 1), reference, (2.5, 0.8, 0.8))


def score_organs(case: LabelMapPair) -> None:
    fresh = LabelMapPair(case.prediction, case.reference, case.spacing_mm)
    for number in range(1, 16):
        pair = fresh.pair(Label("", (number,)))
        for metric in VOXELWISE:
            PROTOCOLS["honest"].value(metric, pair)


def best(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def restore_old_numpy() -> None:
    """Restore the names that numpy and scipy have dropped, for surface-distance 0.1."""
    for module, name, now in ((np, "Inf", np.inf), (np, "bool", np.bool_)):
        if not hasattr(module, name):
            setattr(module, name, now)
    for old in ("filters", "morphology"):
        if not hasattr(ndimage, old):
            setattr(ndimage, old, ndimage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--others", type=Path, help="where medpy and surface-distance are installed")
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.others:
        sys.path.append(str(args.others))
    restore_old_numpy()
    packages = {"scipy, dense": reference_metrics, "monai": monais}
    optional = {"surface_distance": ("surface-distance", deepminds), "medpy": ("medpy", medpys)}
    packages |= {name: work for module, (name, work) in optional.items() if find_spec(module)}

    record = {**surroundings("cpu"), "agreement": differences(packages, args.pairs)}
    record["versions"] |= {name: version(name) for name in ("monai", "scipy")}
    masks = spheres(args.size)
    everyone = {"nnunet_mamba": ours, **packages}
    record["times"] = [
        {
            "package": name,
            "seconds": best(lambda work=work: work(*masks), args.rounds),
            "metrics": len(work(*masks)),
        }
        for name, work in everyone.items()
    ]
    case = organs(args.size)
    record["organs_s"] = best(lambda: score_organs(case), args.rounds)
    far = far_false_positive()
    record["far_false_positive"] = {
        name: {metric: value for metric, value in work(*far).items() if "hd95" in metric}
        for name, work in everyone.items()
    }
    record["size"] = args.size
    text = page(record)
    print(text)
    if args.record:
        write(args.record, json.loads(json.dumps(record, default=float)), text)


def page(record: dict) -> str:
    lines = [heading(record), "", "## Agreement", ""]
    lines += ["| package | metric | pairs | largest difference |", "|---|---|---|---|"]
    lines += [
        f"| {row['package']} | {row['metric']} | {row['pairs']} | {row['largest_difference']:.1e} |"
        for row in record["agreement"]
    ]
    size = record["size"]
    lines += ["", f"## Time, two spheres of {size * 30 // 64} voxels across at {size}^3", ""]
    lines += ["| package | metrics | CPU s |", "|---|---|---|"]
    lines += [f"| {row['package']} | {row['metrics']} | {row['seconds']:.2f} |" for row in record["times"]]
    lines += [
        "",
        f"15 organs at {size}^3, {len(VOXELWISE)} metrics each: {record['organs_s']:.2f} CPU s.",
        "",
    ]
    lines += ["## A far false positive (mm)", "", "| package | HD95 |", "|---|---|"]
    for name, found in record["far_false_positive"].items():
        values = ", ".join(f"{metric} {value:.2f}" for metric, value in found.items())
        lines += [f"| {name} | {values} |"] if values else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
