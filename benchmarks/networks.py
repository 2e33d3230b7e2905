"""Comparison of every network with nnU-Net's own: parameters, operations, time and memory.

    python benchmarks/networks.py --record benchmarks/results/networks_cpu
    python benchmarks/networks.py --count --plan abdomen_ct --record benchmarks/results/operations
    python benchmarks/networks.py --device cuda --inference --record benchmarks/results/networks_cuda
    python benchmarks/networks.py mm_unet mm_unet@mamba_ssm resenc_m swin_unetr --device cuda

writes <record>.json and the table <record>.md. Each network has a process of its own, so that its peak memory
is its own; the control `nnunet` runs before and after the networks of its dimension, and ratios are to the
mean of the two. A training step is the forward pass with deep supervision, nnU-Net's loss (cross-entropy and
Dice) on all outputs, the backward pass, clipped gradients and SGD with momentum; a loss that is not finite is
reported as an error. Nothing is compiled; cuDNN chooses its convolutions by trying, as in nnU-Net.

GMACs are 10^9 multiply-adds of a forward pass of one patch, without the further outputs of deep supervision
(`nnunet_mamba.analysis.operations`); kMACs per voxel, of which 2D and 3D can be compared, are these over its
voxels. --count computes nothing: no time, no memory.

Networks of fixed 2D topology run on the 2D plan with a 2D control, at their papers' features; those of 3D
have their papers' features on the plans `published` and `abdomen_ct`, on the others those of the plan. Plans:
`small` (the CPU's default), `hippocampus` (nnU-Net's own plan of that dataset), `long` (131,072 voxels in
stage 1), `published` (CUDA's: Synapse and an abdominal 2D plan, float16 autocast), `abdomen_ct` (nnU-Net's of
FLARE22, with which docs/networks.md counts parameters) and `tiny` (a test).

`name:word=value` is a network with a word of its config changed, as `mm_unet:mixer_output=bare`; several
values are joined by +, as `mm_unet:encoder=plain+ssm:bottleneck=ssm`.
`name@backend` is a network with another backend of its scans: `mm_unet@mamba_ssm` runs on that package's
kernels, with copies there and back for every direction but the first. Others to compare with: `resenc_m`,
nnU-Net's residual encoder M on the same plan, and MONAI's networks, as `swin_unetr`. --inference adds
nnU-Net's sliding window over a volume of one and a half patches along each axis, with all mirrored copies.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from records import heading, surroundings, write
from torch import Tensor, nn

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.analysis.operations import count_multiply_adds
from nnunet_mamba.io.cpu import wait_passively
from nnunet_mamba.memory.measure import resident_bytes
from nnunet_mamba.memory.simulate import nnunet_loss
from nnunet_mamba.networks.baselines import BASELINES, create_baseline
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.ops import available_backends, causal_conv1d, selective_scan
from nnunet_mamba.ops.backends import ENVIRONMENT, choose_backend

CONTROL = "nnunet"
RESENC_M = "resenc_m"
RESENC_M_BLOCKS = (1, 3, 4, 6, 6, 6, 6)  # nnU-Net's ResEnc presets: blocks per stage


def plan(ndim: int, features: list[int], patch: list[int], batch: int, **changes: Any) -> dict[str, Any]:
    n = len(features)
    strides, kernels = [[1] * ndim, *[[2] * ndim] * (n - 1)], [[3] * ndim] * n
    sizes = {"features_per_stage": features, "strides": strides, "kernel_sizes": kernels, "patch_size": patch}
    return {"batch": batch, "input_channels": 1, "num_classes": 4, **sizes, **changes}


ABDOMEN = {
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
    "num_classes": 14,
}
PLANS = {  # name -> number of axes -> plan
    "tiny": {3: plan(3, [4, 8, 8, 16], [16, 16, 32], 2), 2: plan(2, [8, 16, 32], [64, 64], 1)},
    "small": {
        3: plan(3, [16, 32, 64, 128], [32, 48, 32], 2),
        2: plan(2, [32, 64, 128, 256, 512, 512], [128, 128], 4),
    },
    "hippocampus": {3: plan(3, [32, 64, 128, 256], [40, 56, 40], 9, num_classes=3)},
    "long": {3: plan(3, [16, 32, 64, 128], [64, 128, 128], 1)},
    "published": {
        3: plan(3, [32, 64, 128, 256, 320, 320], [48, 192, 192], 2, **ABDOMEN),
        2: plan(2, [32, 64, 128, 256, 512, 512, 512], [320, 320], 24, num_classes=14),
    },
    "abdomen_ct": {
        3: plan(3, [32, 64, 128, 256, 320, 320], [40, 224, 192], 2, **ABDOMEN),
        2: plan(2, [32, 64, 128, 256, 512, 512, 512, 512], [512, 512], 12, num_classes=14),
    },
}


def parts_of(name: str) -> tuple[str, dict[str, Any], str]:
    """Parse network, words of its config and backend ("" for the default) of `name:word=value@backend`."""
    network, _, backend = name.partition("@")
    network, *settings = network.split(":")
    words = dict(setting.split("=", 1) for setting in settings)
    return network, {word: tuple(v.split("+")) if "+" in v else v for word, v in words.items()}, backend


def ndim_of(name: str) -> int:
    network = parts_of(name)[0]
    if network in BASELINES or network == RESENC_M:
        return 3
    row = get_config(network)
    return max(row.ndims) if isinstance(row, FixedConfig) else 3


def all_names(device: str) -> list[str]:
    """Return our networks, and on CUDA the baselines."""
    names = list_networks()
    if device == "cuda":
        names += [RESENC_M, "swin_unetr"]
        if available_backends()["mamba_ssm"] == "ok":
            with_scans = [name for name in list_networks() if f"{name}_nossm" in names]
            names += [f"{name}@mamba_ssm" for name in with_scans]
    return names


def build(name: str, ndim: int, plan_name: str) -> nn.Module:
    """Build a network, with deep supervision if it has that."""
    name, words, _ = parts_of(name)
    sizes = {key: value for key, value in PLANS[plan_name][ndim].items() if key != "batch"}
    if name in BASELINES:
        wanted = ("input_channels", "num_classes", "patch_size")
        return create_baseline(name, **{key: sizes[key] for key in wanted}, deep_supervision=True)
    if name == RESENC_M:
        return residual_encoder(sizes, ndim)
    return create_network(name, **arguments(name, ndim, plan_name), deep_supervision=True, **words)


def residual_encoder(sizes: dict[str, Any], ndim: int) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    n = len(sizes["features_per_stage"])
    return ResidualEncoderUNet(
        sizes["input_channels"],
        n,
        sizes["features_per_stage"],
        {2: nn.Conv2d, 3: nn.Conv3d}[ndim],
        sizes["kernel_sizes"],
        sizes["strides"],
        RESENC_M_BLOCKS[:n],
        sizes["num_classes"],
        [1] * (n - 1),
        conv_bias=True,
        norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[ndim],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )


def arguments(name: str, ndim: int, plan_name: str) -> dict[str, Any]:
    """Return the arguments of `create_network`; networks of fixed topology take no strides and kernels."""
    sizes = {key: value for key, value in PLANS[plan_name][ndim].items() if key != "batch"}
    if isinstance(get_config(name), FixedConfig):
        papers = ndim == 2 or plan_name in ("published", "abdomen_ct")
        sizes = {
            key: value
            for key, value in sizes.items()
            if key not in ("strides", "kernel_sizes") and not (papers and key == "features_per_stage")
        }
    return sizes


def measure(name: str, ndim: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one network in this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    load_the_operators(device)
    start = memory(device)
    sizes = {**PLANS[args.plan][ndim], **({"batch": args.batch} if args.batch else {})}
    network = build(name, ndim, args.plan).to(device)
    x = torch.randn(sizes["batch"], sizes["input_channels"], *sizes["patch_size"], device=device)
    steps = training_steps(network, x, sizes["num_classes"], args.steps + 1)
    peak = memory(device) - start
    network.eval()
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        forwards = [seconds(lambda: autocast(network, x), device) for _ in range(min(args.steps, 10) + 1)]
    window = {"window_ms": 1e3 * sliding_window(network, sizes, device)} if args.inference else {}
    return {
        **window,
        **count(name, ndim, args.plan),
        "backend": choose_backend(None, device.type),
        "forward_ms": 1e3 * median(forwards[1:]),  # the first of each warms up
        "step_ms": 1e3 * median(steps[1:]),
        "peak_mib": peak / 2**20,
    }


def count(name: str, ndim: int, plan_name: str) -> dict[str, Any]:
    """Count parameters, and the multiply-adds of one patch."""
    network, sizes = build(name, ndim, plan_name).to("meta").eval(), PLANS[plan_name][ndim]
    network.decoder.deep_supervision = False
    multiply_adds = count_multiply_adds(network, sizes["input_channels"], sizes["patch_size"])
    return {
        "network": name,
        "axes": ndim,
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds": multiply_adds,
        "multiply_adds_per_voxel": multiply_adds / prod(sizes["patch_size"]),
    }


def training_steps(network: nn.Module, x: Tensor, n_classes: int, n_steps: int) -> list[float]:
    """Measure the seconds of each step. FloatingPointError if a loss is not finite."""
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    scaler = torch.amp.GradScaler(x.device.type, enabled=x.is_cuda)
    with torch.no_grad():
        outputs = autocast(network, x)
    targets = [torch.randint(n_classes, (len(x), 1, *y.shape[2:]), device=x.device) for y in outputs]
    loss = nnunet_loss(len(targets))
    losses = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = autocast(network, x)
        value = loss([y.float() for y in outputs], targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        losses.append(value.detach())

    times = [seconds(step, x.device) for _ in range(n_steps)]
    bad = [index for index, value in enumerate(losses) if not value.isfinite()]
    if bad:
        raise FloatingPointError(f"the loss of step {bad[0] + 1} of {n_steps} is not finite")
    return times


def autocast(network: nn.Module, x: Tensor) -> Any:
    with torch.autocast(x.device.type, dtype=torch.float16, enabled=x.is_cuda):
        return network(x)


def sliding_window(network: nn.Module, sizes: dict[str, Any], device: torch.device) -> float:
    """Measure the seconds of nnU-Net's prediction of one volume, after a warm-up."""
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(perform_everything_on_device=True, device=device, allow_tqdm=False)
    patch = sizes["patch_size"]
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=sizes["num_classes"])
    predictor.allowed_mirroring_axes = tuple(range(len(patch)))
    volume = [size * 3 // 2 for size in patch]
    x = torch.randn(sizes["input_channels"], *(volume if len(patch) == 3 else [1, *volume]))
    return min(
        seconds(lambda: predictor.predict_sliding_window_return_logits(x), device)
        for _ in range(2 if device.type == "cuda" else 1)
    )


def load_the_operators(device: torch.device) -> None:
    """Make first calls and imports, whose memory must not count for a network; set cuDNN as nnU-Net does."""
    torch.backends.cudnn.benchmark = True
    nnunet_loss(1)
    u = torch.randn(1, 8, 8, device=device, requires_grad=True)
    y = causal_conv1d(u, torch.randn(8, 4, device=device), activation="silu")
    selective_scan(y, y, -torch.rand(8, 4, device=device), y[:, :4], y[:, 4:], z=y).sum().backward()


def seconds(call: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(device: torch.device) -> int:
    """Return the peak bytes so far: of the process, or of torch's allocations on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # where getrusage counts the process from which this one was started, too
        return resident_bytes()["VmHWM"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(name: str, ndim: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a new process; {"error": ...} where it fails."""
    command = [sys.executable, __file__, "--child", name, str(ndim), "--plan", args.plan]
    command += ["--device", args.device, "--threads", str(args.threads), "--steps", str(args.steps)]
    command += ["--inference"] if args.inference else []
    command += ["--batch", str(args.batch)] if args.batch else []
    backend = parts_of(name)[2]
    environment = {**os.environ, ENVIRONMENT: backend} if backend else None
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"network": name, "axes": ndim, "error": lines[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(names: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row per network, those of one dimension between two of the control; ratios added."""
    rows = []
    for ndim, group in by_dimension(names):
        measured = []
        for name in (CONTROL, *group, CONTROL):
            measured.append(in_a_process(name, ndim, args))
            print(json.dumps(measured[-1]), flush=True)
        controls = [row for row in (measured[0], measured[-1]) if "error" not in row]
        for row in measured:
            if controls and "error" not in row:
                row["ratios"] = {
                    key: row[key] / mean(control[key] for control in controls)
                    for key in ("parameters", "forward_ms", "step_ms", "peak_mib", "window_ms")
                    if key in row
                }
        rows += measured
    return rows


def counts(names: list[str], plan_name: str) -> list[dict[str, Any]]:
    """Return a row per network, those of one dimension behind the control, without times and memory."""
    groups = by_dimension(names)
    return [count(name, ndim, plan_name) for ndim, group in groups for name in (CONTROL, *group)]


def by_dimension(names: list[str]) -> list[tuple[int, list[str]]]:
    """Return the networks with the same number of axes, without the control, those of 3D first."""
    dimensions = sorted({ndim_of(name) for name in names}, reverse=True)
    return [(n, [name for name in names if ndim_of(name) == n and name != CONTROL]) for n in dimensions]


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "parameters (M)": lambda row: f"{row['parameters'] / 1e6:.2f}",
    "operations (GMACs)": lambda row: f"{row['multiply_adds'] / 1e9:.4g}",
    "per voxel (kMACs)": lambda row: f"{row['multiply_adds_per_voxel'] / 1e3:.4g}",
    "forward (ms)": lambda row: f"{row['forward_ms']:.0f}",
    "training step (ms)": lambda row: f"{row['step_ms']:.0f}",
    "peak memory (MiB)": lambda row: f"{row['peak_mib']:.0f}",
    "sliding window (ms)": lambda row: f"{row['window_ms']:.0f}",
    "step / control": lambda row: f"{row['ratios']['step_ms']:.2f}",
    "memory / control": lambda row: f"{row['ratios']['peak_mib']:.2f}",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Format the columns that any row has."""
    cells = [{title: cell for title in COLUMNS if (cell := cell_of(row, title))} for row in rows]
    titles = [title for title in COLUMNS if any(title in row for row in cells)]
    lines = [f"| network | axes | {' | '.join(titles)} |", "|---|---|" + "---|" * len(titles)]
    for row, own in zip(rows, cells, strict=True):
        failed = [f"failed: {row['error']}"] + [""] * (len(titles) - 1) if "error" in row else None
        values = failed or [own.get(title, "") for title in titles]
        lines.append(f"| `{row['network']}` | {row['axes']} | {' | '.join(values)} |")
    return "\n".join(lines)


def cell_of(row: dict[str, Any], title: str) -> str:
    """Return the text of one value; "" if it was not measured."""
    try:
        return COLUMNS[title](row)
    except KeyError:
        return ""


def describe(record: dict[str, Any]) -> str:
    """Format the record as a page of Markdown."""
    plans = "; ".join(
        f"{kind}: features {sizes['features_per_stage']}, patch {sizes['patch_size']}, batch {sizes['batch']}"
        for kind, sizes in record["plan"].items()
    )
    before, after = record["load_average"]
    measured = (
        f"Medians of {record['timed_steps']} steps; load average {before:.1f} before, {after:.1f} after."
        if record["timed_steps"]
        else "Operations are those of one patch; nothing was computed."
    )
    return f"{heading(record)} Plans: {plans}. {measured}\n\n{table(record['rows'])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--plan", choices=PLANS, help="default: small on the CPU, published on CUDA")
    parser.add_argument("--steps", type=int, help="timed training steps; default: 3 on the CPU, 50 on CUDA")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, help="instead of the plan's")
    parser.add_argument("--count", action="store_true", help="parameters and operations alone")
    parser.add_argument("--inference", action="store_true", help="also time nnU-Net's sliding window")
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "AXES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.plan = args.plan or ("published" if args.device == "cuda" else "small")
    args.steps = 0 if args.count else args.steps or (50 if args.device == "cuda" else 3)
    if args.child:
        print(json.dumps(measure(args.child[0], int(args.child[1]), args)))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here.")
    torch.set_num_threads(args.threads)
    wait_passively()  # in the networks' processes
    load = os.getloadavg()[0]
    names = args.networks or all_names(args.device)
    rows = counts(names, args.plan) if args.count else compare(names, args)
    batch = {"batch": args.batch} if args.batch else {}
    plans = {f"{ndim}d": {**sizes, **batch} for ndim, sizes in PLANS[args.plan].items()}
    numbers = {"plan": plans, "timed_steps": args.steps, "load_average": [load, os.getloadavg()[0]]}
    record = {**surroundings(args.device), **numbers, "rows": rows}
    print(describe(record))
    if args.record:
        write(args.record, record, describe(record))
        print(f"-> {args.record}.json, {args.record}.md")


if __name__ == "__main__":
    main()
