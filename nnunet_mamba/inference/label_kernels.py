"""Kernels of the one-pass export: interpolation of logits and decision for a label, voxel by voxel.

Interpolation is a weighted mean. Where one label wins at all eight corners of a cell by more than rounding
could take away, it wins everywhere within: only cells that lie between labels are interpolated. There the
arithmetic is nnU-Net's, float64 rounded to the type of the logits before the decision, and where the best two
are as good as equal its sums are added in nnU-Net's order: labels are equal.

Logits are (K, x, y, z) in float32, or in float16 as its bits (uint16), which numba lacks as a type.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from nnunet_mamba.ops.numba_tasks import compiled

MIXED = 65535  # code of a voxel or cell without a certain label
REGION_LOGIT = np.float32(1.5 * 2.0**-24)  # logit above which torch's sigmoid of float32 exceeds 1/2
HALF_SCALE = np.float32(2.0**112)  # from float16's exponents to float32's
HALF_DROPPED = 42  # bits of float64's fraction that float16 lacks
HALF_NORMAL = 2.0**-14  # smallest float16 with all bits
HALF_SUBNORMAL = 1.5 * 2.0**28  # adding and subtracting it rounds to multiples of 2**-24


def to_float(value):  # type: ignore[no-untyped-def]
    """Return a stored logit as float32."""
    raise NotImplementedError  # compiled code only


@overload(to_float)
def _to_float(value):  # type: ignore[no-untyped-def]
    if str(value) != "uint16":
        return lambda value: value

    def convert(value):  # type: ignore[no-untyped-def]
        magnitude = np.int32((np.int32(value) & 0x7FFF) << 13).view(np.float32) * HALF_SCALE
        return -magnitude if value & 0x8000 else magnitude

    return convert


def round_like(value, stored):  # type: ignore[no-untyped-def]
    """Round a float64 as the type of a stored logit does, to nearest."""
    raise NotImplementedError


@overload(round_like)
def _round_like(value, stored):  # type: ignore[no-untyped-def]
    if str(stored) != "uint16":
        return lambda value, stored: np.float64(np.float32(value))

    def convert(value, stored):  # type: ignore[no-untyped-def]
        if abs(value) < HALF_NORMAL:
            return (value + HALF_SUBNORMAL) - HALF_SUBNORMAL
        bits = np.float64(value).view(np.int64)
        bits += ((bits >> HALF_DROPPED) & 1) + (1 << (HALF_DROPPED - 1)) - 1  # halves to even
        return np.int64(bits >> HALF_DROPPED << HALF_DROPPED).view(np.float64)

    return convert


def margin(magnitude, stored):  # type: ignore[no-untyped-def]
    """Return more than two roundings of numbers up to `magnitude`."""
    raise NotImplementedError


@overload(margin)
def _margin(magnitude, stored):  # type: ignore[no-untyped-def]
    if str(stored) != "uint16":
        return lambda magnitude, stored: magnitude * np.float32(2.0**-21) + np.float32(1e-30)
    return lambda magnitude, stored: magnitude * np.float32(2.0**-8) + np.float32(2.0**-22)


@compiled
def code_argmax(logits, codes, first, last):
    """Write the index of the largest logit of each voxel of the planes [first, last), or MIXED where the
    second is about as large.

    Args:
        codes: (x, y, z) of uint16.
    """
    _, _, n_y, n_z = logits.shape
    best, second = np.empty(n_z, np.float32), np.empty(n_z, np.float32)
    winner = np.empty(n_z, np.uint16)
    for x in range(first, last):
        for y in range(n_y):
            best[:] = -np.inf
            second[:] = -np.inf
            winner[:] = 0
            for k in range(len(logits)):
                line = logits[k, x, y]
                for z in range(n_z):
                    value = to_float(line[z])
                    is_better = value > best[z]
                    second[z] = best[z] if is_better else max(second[z], value)
                    winner[z] = k if is_better else winner[z]
                    best[z] = value if is_better else best[z]
            code = codes[x, y]
            for z in range(n_z):
                largest = max(abs(best[z]), abs(second[z]))
                is_certain = best[z] - second[z] > margin(largest, logits[0, 0, 0, 0])
                code[z] = winner[z] if is_certain else MIXED


@compiled
def code_regions(logits, codes, first, last):
    """Write 1 + the last index of a logit above REGION_LOGIT of each voxel of the planes [first, last); 0:
    none."""
    _, _, n_y, n_z = logits.shape
    for x in range(first, last):
        for y in range(n_y):
            code = codes[x, y]
            code[:] = 0
            for k in range(len(logits)):
                line = logits[k, x, y]
                for z in range(n_z):
                    code[z] = k + 1 if to_float(line[z]) > REGION_LOGIT else code[z]


@compiled
def decide_labels(
    logits, codes, lows, highs, weights, separate_axis, label_values, are_regions, labels, first, last
):
    """Write the labels of the planes [first, last) of the output.

    Args:
        codes: of `code_argmax` or `code_regions`.
        lows, highs, weights: interpolation along x, y and z, as in `Interpolation`.
        separate_axis: of `Resampling`, or -1.
        label_values: labels by code, of the type of `labels`.
        labels: (x', y', z'), strided.
    """
    n_out = len(lows[2])
    cells = np.empty(codes.shape[2], np.uint16)
    scratch = np.empty(codes.shape[2]), np.empty(n_out), np.empty(n_out), np.empty(n_out, np.int64)
    maps = lows, highs, weights, separate_axis
    for x in range(first, last):
        x0, x1 = lows[0][x], highs[0][x]
        for y in range(len(lows[1])):
            y0, y1 = lows[1][y], highs[1][y]
            a, b, c, d = codes[x0, y0], codes[x0, y1], codes[x1, y0], codes[x1, y1]
            for z in range(len(cells)):
                is_certain = (a[z] == b[z]) & (a[z] == c[z]) & (a[z] == d[z])
                cells[z] = a[z] if is_certain else MIXED
            line = labels[x, y]
            start = 0  # of a run of voxels without a certain label
            for z in range(n_out):
                code = cells[lows[2][z]]
                if code == MIXED or code != cells[highs[2][z]]:
                    continue
                if start < z:
                    decide_run(logits, *maps, label_values, are_regions, line, x, y, start, z, scratch)
                line[z] = label_values[code]
                start = z + 1
            if start < n_out:
                decide_run(logits, *maps, label_values, are_regions, line, x, y, start, n_out, scratch)


@compiled
def decide_run(
    logits, lows, highs, weights, separate_axis, label_values, are_regions, line, x, y, first, last, scratch
):
    """Write the labels of the voxels [first, last) of a line along z by interpolation of all logits."""
    mixed, best, second, winner = scratch
    low, high, weight = lows[2][first:last], highs[2][first:last], weights[2][first:last]
    best[: last - first] = REGION_LOGIT if are_regions else -np.inf
    second[: last - first] = -np.inf
    winner[: last - first] = 0
    for k in range(len(logits)):
        interpolate_line(logits[k], lows, highs, weights, x, y, mixed, low[0], high[-1] + 1)
        for z in range(last - first):
            value = mixed[low[z]] * weight[z, 0] + mixed[high[z]] * weight[z, 1]
            value = round_like(value, logits[0, 0, 0, 0])
            is_better = value > best[z]
            winner[z] = k + are_regions if is_better else winner[z]
            if not are_regions:
                second[z] = best[z] if is_better else max(second[z], value)
                best[z] = value if is_better else best[z]
    for z in range(last - first):
        largest = max(abs(best[z]), abs(second[z]))
        if not are_regions and best[z] - second[z] <= margin(largest, logits[0, 0, 0, 0]):
            winner[z] = decide_tie(logits, lows, highs, weights, separate_axis, x, y, first + z)
        line[first + z] = label_values[winner[z]]


@compiled
def decide_tie(logits, lows, highs, weights, separate_axis, x, y, z):
    """Return the first index of the largest logit of a voxel, where the order of sums may decide."""
    best, winner = -np.inf, 0
    for k in range(len(logits)):
        value = interpolate_in_order(logits[k], lows, highs, weights, separate_axis, x, y, z)
        value = round_like(value, logits[0, 0, 0, 0])
        if value > best:
            best, winner = value, k
    return winner


@compiled
def interpolate_in_order(logits, lows, highs, weights, separate_axis, x, y, z):
    """Return an interpolated logit, summed as scipy does: over x, y and z, the last fastest, and along the
    separate axis after the other two."""
    xs, ys, zs = (lows[0][x], highs[0][x]), (lows[1][y], highs[1][y]), (lows[2][z], highs[2][z])
    of_x, of_y, of_z = weights[0][x], weights[1][y], weights[2][z]
    total = 0.0
    for outer in range(2):
        part = 0.0
        for i in range(2):
            for j in range(2):
                if separate_axis == 1:
                    part += to_float(logits[xs[i], ys[outer], zs[j]]) * of_x[i] * of_z[j]
                elif separate_axis == 2:
                    part += to_float(logits[xs[i], ys[j], zs[outer]]) * of_x[i] * of_y[j]
                elif separate_axis == 0:
                    part += to_float(logits[xs[outer], ys[i], zs[j]]) * of_y[i] * of_z[j]
                else:
                    total += to_float(logits[xs[outer], ys[i], zs[j]]) * of_x[outer] * of_y[i] * of_z[j]
        if separate_axis == 0:
            total += part * of_x[outer]
        elif separate_axis == 1:
            total += part * of_y[outer]
        elif separate_axis == 2:
            total += part * of_z[outer]
    return total


@compiled
def interpolate_line(logits, lows, highs, weights, x, y, line, first, last):
    """Write the part [first, last) of a line along z between four lines of logits (x, y, z), for output x
    and y."""
    w00, w01 = weights[0][x, 0] * weights[1][y, 0], weights[0][x, 0] * weights[1][y, 1]
    w10, w11 = weights[0][x, 1] * weights[1][y, 0], weights[0][x, 1] * weights[1][y, 1]
    lower, upper = logits[lows[0][x]], logits[highs[0][x]]
    a, b, c, d = lower[lows[1][y]], lower[highs[1][y]], upper[lows[1][y]], upper[highs[1][y]]
    for z in range(first, last):
        near = to_float(a[z]) * w00 + to_float(b[z]) * w01
        line[z] = near + to_float(c[z]) * w10 + to_float(d[z]) * w11


@compiled
def interpolate_planes(logits, lows, highs, weights, target, first, last):
    """Write the interpolated planes [first, last) of one channel, rounded to the type of the logits.

    Args:
        logits: (x, y, z).
        target: (x', y', z') of float32, strided.
    """
    line = np.empty(logits.shape[2], np.float64)
    low_z, high_z, weight_z = lows[2], highs[2], weights[2]
    for x in range(first, last):
        for y in range(len(lows[1])):
            interpolate_line(logits, lows, highs, weights, x, y, line, 0, len(line))
            for z in range(len(low_z)):
                value = line[low_z[z]] * weight_z[z, 0] + line[high_z[z]] * weight_z[z, 1]
                target[x, y, z] = round_like(value, logits[0, 0, 0])
