"""Slow reference of the surface metrics: dense distance transforms of scipy only."""

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt


def surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask)


def directed_distances(a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    return distance_transform_edt(~surface(b), sampling=spacing_mm)[surface(a)]


def reference_metrics(p: np.ndarray, r: np.ndarray, spacing_mm: tuple[float, ...]) -> dict[str, float]:
    there, back = directed_distances(p, r, spacing_mm), directed_distances(r, p, spacing_mm)
    pooled = np.concatenate([there, back])
    return {
        "dice": 2 * (p & r).sum() / (p.sum() + r.sum()),
        "iou": (p & r).sum() / (p | r).sum(),
        "hd100": max(there.max(), back.max()),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": pooled.mean(),
        "masd": (there.mean() + back.mean()) / 2,
        "asd": there.mean(),
        "medpy_hd95": np.percentile(pooled, 95),
    }


def blobs(rng: np.random.Generator, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of two ellipsoids with ragged edges, which may overlap; neither is empty."""
    axes = np.indices(grid)

    def ellipsoid() -> np.ndarray:
        centre, radii = rng.uniform(0.3, 0.7, len(grid)) * grid, rng.uniform(0.08, 0.3, len(grid)) * grid
        depth = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True))
        mask = depth + rng.normal(0, 0.15, grid) < 1
        mask[tuple(centre.astype(int))] = True
        return mask

    return ellipsoid(), ellipsoid()
