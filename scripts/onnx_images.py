"""Images for onnx_predict.py, by numpy alone: read, normalised and resampled as by nnU-Net, written.

Axes are z, y, x; C channels.
"""

import gzip
import math
import struct

import numpy as np

# NIfTI's codes of types
TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}
PAD = 12  # voxels by which scipy extends an edge before it fits a spline


def read_nifti(file):
    """Return voxels (z, y, x) in float32, their spacing in mm, and the header."""
    data = file.read_bytes()
    data = gzip.decompress(data) if file.suffix == ".gz" else data
    if len(data) < 352 or data[:4] != struct.pack("<i", 348) or data[344:348] != b"n+1\0":
        raise ValueError(f"{file} is not NIfTI-1 in one file and little endian; convert it.")
    n_axes, *shape = struct.unpack_from("<4h", data, 40)
    kind, units = struct.unpack_from("<h", data, 70)[0], data[123] & 7
    spacing = np.abs(struct.unpack_from("<3f", data, 80)[::-1]).tolist()
    offset, slope, intercept = struct.unpack_from("<3f", data, 108)
    has_size = all(0 < mm < math.inf for mm in spacing) and units in (0, 2)
    if n_axes != 3 or kind not in TYPES or not has_size:
        raise ValueError(
            f"{file}: {n_axes} axes, voxels of type {kind}, spacing {spacing} in unit {units}; expected 3 "
            f"axes, a type of {list(TYPES)} and a spacing above 0 in mm (unit 2 or 0)."
        )
    voxels = np.frombuffer(data, TYPES[kind], math.prod(shape), int(offset)).reshape(shape[::-1])
    if slope and math.isfinite(slope) and (slope, intercept) != (1, 0):
        voxels = voxels * float(slope) + intercept
    voxels = voxels.astype(np.float32)
    if not np.isfinite(voxels).all():
        raise ValueError(f"{file} holds NaN or infinity; correct the image.")
    return voxels, spacing, data[:348]


def write_nifti(file, labels, header):
    """Write labels (z, y, x) with the affine of `header`; the file is complete or does not exist."""
    labels = labels.astype("u1" if labels.max() < 255 else "<u2")
    header = bytearray(header + bytes(4))  # without extensions
    struct.pack_into("<2h", header, 70, 2 if labels.itemsize == 1 else 512, 8 * labels.itemsize)
    struct.pack_into("<3f", header, 108, 352, 1, 0)  # where voxels begin, slope, intercept
    struct.pack_into("<2f", header, 124, 0, 0)  # no range for display
    content = bytes(header) + labels.tobytes()
    draft = file.with_name(f".partial-{file.name}")
    draft.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    draft.replace(file)


def fill_holes(mask):
    """Fill what is False and not connected to the border by faces, by runs along each axis."""
    free = ~np.pad(mask, 1)
    outside, n_before = np.zeros_like(free), -1
    outside[0] = True
    while outside.sum() > n_before:
        n_before = outside.sum()
        for axis in range(3):
            rows = np.moveaxis(free, axis, -1)
            runs = np.cumsum(np.diff(rows, axis=-1, prepend=False)).reshape(rows.shape)
            reached = np.zeros(runs.max() + 1, bool)
            reached[runs[np.moveaxis(outside, axis, -1)]] = True
            outside = np.moveaxis(reached[runs], -1, axis)
    return ~outside[1:-1, 1:-1, 1:-1]


def normalize(channel, mask, rule):
    """Return a channel of the image with intensities as the training had them."""
    if rule["scheme"] == "ZScoreNormalization":
        mask = mask if rule["within_mask"] else np.ones_like(mask)
        values = channel[mask]
        return np.where(mask, (channel - values.mean()) / max(values.std(), np.float32(1e-8)), channel)
    if rule["scheme"] == "CTNormalization":
        return (channel.clip(rule["lowest"], rule["highest"]) - rule["mean"]) / max(rule["std"], 1e-8)
    if rule["scheme"] == "RescaleTo01Normalization":
        return (channel - channel.min()) / max(np.ptp(channel), np.float32(1e-8))
    if rule["scheme"] == "RGBTo01Normalization":
        if channel.min() < 0 or channel.max() > 255:
            raise ValueError(f"intensities {channel.min()} to {channel.max()}; expected 0 to 255.")
        return channel / 255
    return channel  # NoNormalization


def interpolation_matrix(n_in, n_out, order):
    """Return the interpolation along an axis by splines, edges repeated: (n_out, n_in)."""
    at = (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5
    if order == 3:
        n = n_in + 2 * PAD
        samples = (4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)) / 6  # of the splines, at voxels
        samples[0, 0] = samples[-1, -1] = 5 / 6
        extended = np.eye(n_in)[np.arange(-PAD, n_in + PAD).clip(0, n_in - 1)]
        d = np.abs(at[:, None] + PAD - np.arange(n))
        splines = np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.maximum(2 - d, 0) ** 3 / 6)
        return splines @ np.linalg.solve(samples, extended)
    at = at.clip(0, n_in - 1) if order else np.floor(at.clip(0, n_in - 1) + 0.5)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(n_in)), 0)


def find_separate_axis(rule, *spacings):
    """Return the axis of low resolution, which is resampled last and by an order of its own, or None."""
    if rule["force_separate_z"] is None:
        spacings = [one for one in spacings if max(one) / min(one) > rule["threshold"]]
    coarse = np.flatnonzero(np.array(spacings[0]) == max(spacings[0])) if spacings else []
    return int(coarse[0]) if rule["force_separate_z"] is not False and len(coarse) == 1 else None


def resample(channels, shape, rule, spacing, new_spacing):
    """Resample (C, z, y, x) to (C, *shape) in float64, within the range of values that there were."""
    if channels.shape[1:] == tuple(shape):
        return channels
    separate = find_separate_axis(rule, spacing, new_spacing)
    alike = tuple(axis for axis in range(3) if axis != separate)
    result = np.empty((len(channels), *shape), channels.dtype)
    for channel, target in zip(channels, result, strict=True):
        values = channel.astype(float)
        lowest, highest = values.min(alike, keepdims=True), values.max(alike, keepdims=True)
        for axis in (*alike, *(() if separate is None else (separate,))):
            order = rule["order_z"] if axis == separate else rule["order"]
            matrix = interpolation_matrix(values.shape[axis], shape[axis], order)
            values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
            if axis == alike[-1]:
                values = values.clip(lowest, highest)
        target[...] = values
    return result
