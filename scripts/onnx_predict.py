#!/usr/bin/env python
"""Predict label maps with a folder of `nnunet-mamba export-onnx`, by onnxruntime and numpy alone.

    python onnx_predict.py MODEL IMAGES OUT        needs onnx_images.py beside it

MODEL holds model.json and a network per fold. Images are CASE_0000.nii.gz, CASE_0001.nii.gz, ... (or .nii, as
in the training): NIfTI-1 of three axes in one file, little endian, in mm. Label maps, OUT/CASE.nii.gz, have
the header of their image's first channel. Every step is nnU-Net's, with its sums of logits in float16.
"""

import argparse
import json
import math
import re
import sys
import zlib
from functools import reduce
from itertools import combinations, product
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_images import fill_holes, normalize, read_nifti, resample, write_nifti

FORMAT = 1  # of model.json


def preprocess(image, spacing, model):
    """Return what the network sees of an image in its order of axes, its spacing, and the box it is of."""
    used = [np.flatnonzero((image != 0).any(tuple({0, 1, 2, 3} - {axis}))) for axis in (1, 2, 3)]
    box = tuple(slice(at[0], at[-1] + 1) if len(at) else slice(None) for at in used)
    image = np.ascontiguousarray(image[(slice(None), *box)])
    needs_mask = any(rule["within_mask"] for rule in model["normalization"])
    mask = fill_holes((image != 0).any(0)) if needs_mask else np.ones(image.shape[1:], bool)
    rules = zip(image, model["normalization"], strict=True)
    image = np.stack([normalize(channel, mask, rule) for channel, rule in rules])
    target = [*spacing[: 3 - len(model["spacing"])], *model["spacing"]]
    shape = [round(old / new * n) for old, new, n in zip(spacing, target, image.shape[1:], strict=True)]
    if not all(shape):
        raise ValueError(f"{image.shape[1:]} voxels of {spacing} mm are too few for voxels of {target} mm.")
    image = resample(image.astype(np.float32), shape, model["resample_image"], spacing, target)
    return image, target, box


def compute_weights(patch, sigma, peak):
    """Return the Gaussian by which predictions of a tile are weighted, in float16 and nowhere 0."""
    rows = [np.exp(-0.5 * ((np.arange(n) - n // 2) / (sigma * n)) ** 2) for n in patch]
    weights = (peak * reduce(np.multiply.outer, rows)).astype(np.float32).astype(np.float16)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def compute_starts(size, patch, step):
    """Return where tiles begin along an axis: at most `step` patches apart, the last one at the end."""
    n_steps = math.ceil((size - patch) / (patch * step))
    return [round((size - patch) / n_steps * i) for i in range(n_steps + 1)] if n_steps else [0]


def predict_logits(run, image, model):
    """Predict a preprocessed image tile by tile: (C, z, y, x) -> (K, z, y, x) in float16."""
    patch, grid = model["patch_size"], image.shape[1:]
    sizes = [1, *patch] if len(patch) == 2 else patch  # a 2D network sees slices
    missing = [max(0, size - n) for size, n in zip(sizes, grid, strict=True)]
    image = np.pad(image, [(0, 0), *((n // 2, n - n // 2) for n in missing)])
    step = model["step_size"]
    starts = [compute_starts(n, size, step) for n, size in zip(image.shape[1:], sizes, strict=True)]
    if len(patch) == 2:
        starts[0] = range(len(image[0]))
    weights = compute_weights(patch, model["gaussian_sigma"], model["gaussian_peak"]).reshape(sizes)
    axes = [axis + 2 for axis in model["mirror_axes"]]
    flips = [flip for n in range(len(axes) + 1) for flip in combinations(axes, n)]
    logits, total = None, np.zeros(image.shape[1:], np.float16)
    for corner in product(*starts):
        tile = (..., *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
        patches = image[tile].reshape(1, -1, *patch)
        predicted = sum(np.flip(run(np.ascontiguousarray(np.flip(patches, flip))), flip) for flip in flips)
        if logits is None:
            logits = np.zeros((predicted.shape[1], *total.shape), np.float16)
        logits[tile] += (predicted / len(flips)).reshape(-1, *sizes) * weights.astype(np.float32)
        total[tile] += weights
    logits /= total
    return logits[(..., *(slice(n // 2, n // 2 + size) for n, size in zip(missing, grid, strict=True)))]


def label(logits, order):
    """Return labels (z, y, x): of the largest logit, or of the last region whose probability exceeds 0.5."""
    if order is None:
        return logits.argmax(0)
    labels = np.zeros(logits.shape[1:], np.int64)
    for region, value in zip(logits.astype(np.float32), order, strict=True):
        labels[1 / (1 + np.exp(-region)) > 0.5] = value
    return labels


def segment(runs, image, spacing, model):
    """Return the label map (z, y, x) of an image (C, z, y, x) by the mean logits of some networks."""
    forward = model["transpose_forward"]
    image, spacing = image.transpose(0, *(axis + 1 for axis in forward)), [spacing[axis] for axis in forward]
    preprocessed, network_spacing, box = preprocess(image, spacing, model)
    logits = sum(predict_logits(run, preprocessed, model) for run in runs) / np.float16(len(runs))
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity: check image and network.")
    labels = np.zeros(image.shape[1:], np.int64)
    shape = labels[box].shape
    logits = resample(logits, shape, model["resample_logits"], network_spacing, spacing)
    labels[box] = label(logits, model["regions_class_order"])
    return labels.transpose(model["transpose_backward"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("model", "images", "out"):
        parser.add_argument(name, metavar=name.upper(), type=Path)
    args = parser.parse_args()
    model = json.loads((args.model / "model.json").read_text(encoding="utf-8"))
    if model["format"] != FORMAT:
        sys.exit(f"{args.model} is of format {model['format']}; expected {FORMAT}: export it anew.")
    sessions = [
        onnxruntime.InferenceSession(str(args.model / name), providers=["CPUExecutionProvider"])
        for name in model["networks"]
    ]
    runs = [lambda x, session=session: session.run(None, {"image": x})[0] for session in sessions]
    ending, channels = model["file_ending"], model["channels"]
    pattern = re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")
    cases = sorted({found[1] for file in args.images.iterdir() if (found := pattern.fullmatch(file.name))})
    if not cases:
        sys.exit(f"{args.images} holds no CASE_0000{ending}.")
    args.out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        try:
            read = [read_nifti(args.images / f"{case}_{n:04}{ending}") for n in range(len(channels))]
            if len({(voxels.shape, *spacing) for voxels, spacing, _ in read}) > 1:
                raise ValueError("its channels differ in shape or spacing.")
            labels = segment(runs, np.stack([voxels for voxels, _, _ in read]), read[0][1], model)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            sys.exit(f"{case}: {error}")
        write_nifti(args.out / f"{case}{ending}", labels, read[0][2])
        print(f"{case}: labels {np.unique(labels).tolist()}", flush=True)


if __name__ == "__main__":
    main()
