"""Export every network to ONNX, run it by onnxruntime, and compare the logits with torch's.

    python benchmarks/onnx_networks.py --record benchmarks/results/onnx_networks
    python benchmarks/onnx_networks.py mm_unet --patch 40 56 40 --record benchmarks/results/onnx_real

writes <record>.json and the table <record>.md after each network. Each network has a process of its own, so
that its peak memory is its own.

Without --patch networks have all their stages and few channels: those of nnU-Net's plans the topology and the
patches of its plans for the hippocampus, the others their papers' with one block per stage. With --patch
they have nnU-Net's default plan for a patch of that many voxels, or their papers' channels and blocks.
Weights are random and moved from where they were initialised, for residual branches may start at zero.
Seconds are the export's and the comparison's: loading the file, running one patch by onnxruntime and by
torch. The difference is in parts of the largest logit.
`name:word=value` changes a word of the network's config, as `umamba_bot:mixer=attention`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from networks import parts_of, plan
from records import heading, surroundings, write
from torch import nn

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.inference.onnx_export import compare_with_runtime, export_network
from nnunet_mamba.memory.measure import resident_bytes
from nnunet_mamba.networks.config import FixedConfig
from nnunet_mamba.networks.family import get_config, supported_ndims

SMALL = {
    3: plan(3, [8, 16, 16, 32], [40, 56, 40], 1, num_classes=3),
    2: plan(2, [8, 16, 16, 32], [56, 40], 1, num_classes=3),
}
VSS, SEG = [8, 16, 32, 64], [8, 8, 16, 16]
FIXED = {  # channels of networks of fixed topology, and blocks: one per stage
    "vm_unet": {"features_per_stage": VSS, "depths": [1] * 4, "depths_decoder": [1] * 4},
    "mamba_unet": {"features_per_stage": VSS, "depths": [1] * 4},
    "swin_umamba": {"features_per_stage": [4, *VSS], "depths": [1] * 4},
    "swin_umamba_d": {"features_per_stage": VSS, "depths": [1] * 4, "depths_decoder": [1] * 3},
    "segmamba": {"features_per_stage": SEG, "depths": [1] * 4},
    "segmamba_v2": {"features_per_stage": SEG, "depths": [1] * 4},
    "lightm_unet": {"features_per_stage": SEG, "depths": [1] * 4},
    "nnmamba": {"features_per_stage": [16] * 4, "depths": [2] * 3},
}
MIXERS = ("attention", "mamba2", "mlstm", "conv")
WORDS = [f"{name}:mixer={word}" for name in ("mm_unet", "umamba_bot") for word in MIXERS]
COLUMNS = (
    "network axes patch parameters_(M) difference export_(s) comparison_(s) file_(MB) nodes peak_memory_(MiB)"
)


def list_rows(names: list[str], patch: list[int] | None) -> list[tuple[str, int]]:
    """Return networks, each with a number of axes: of the patch, or all that it takes."""
    every = [(name, n) for name in names for n in supported_ndims(parts_of(name)[0])]
    return [(name, n) for name, n in every if patch is None or n == len(patch)]


def build(name: str, ndim: int, patch: list[int] | None) -> tuple[nn.Module, list[int]]:
    """Return a network with random weights, and its patch."""
    name, words, _ = parts_of(name)
    sizes = {key: value for key, value in SMALL[ndim].items() if key != "batch"}
    fixed = isinstance(get_config(name), FixedConfig)
    if patch or fixed:
        sizes = {key: sizes[key] for key in ("input_channels", "num_classes", "patch_size")}
    if patch:
        sizes["patch_size"] = patch
    elif fixed:
        sizes |= FIXED[name.removesuffix("_nossm")]
    torch.manual_seed(0)
    network = create_network(name, **sizes, **words).eval()
    move_weights(network)
    return network, sizes["patch_size"]


@torch.no_grad()
def move_weights(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.add_(0.1 * parameter.std(correction=0).clamp(min=0.1) * torch.randn_like(parameter))
    for name, buffer in network.named_buffers():
        if "running_var" in name:
            buffer.uniform_(0.5, 1.5)


def measure(name: str, ndim: int, patch: list[int] | None, threads: int) -> dict[str, Any]:
    """Return the row of a network, exported in this process; "error" is why it was refused."""
    torch.set_num_threads(threads)
    network, size = build(name, ndim, patch)
    row = {"network": name, "axes": ndim, "patch": list(size)}
    row["parameters"] = sum(p.numel() for p in network.parameters())
    image = torch.randn(1, 1, *size)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            start = time.perf_counter()
            export_network(network, image, file)
            exported = time.perf_counter()
            row["difference"] = compare_with_runtime(network, image, file)
        except ValueError as error:
            return {**row, "error": str(error)[:500]}
        row |= {"export_s": exported - start, "compare_s": time.perf_counter() - exported}
        row |= {"file_mb": file.stat().st_size / 1e6, "nodes": count_nodes(file)}
    return {**row, "peak_mib": resident_bytes()["VmHWM"] / 2**20}


def count_nodes(file: Path) -> int:
    import onnx

    return len(onnx.load(file).graph.node)


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """Run `measure` in a new process, which may run out of memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except Exception as error:  # whatever it is, the other networks are still measured
            name, ndim, *_ = arguments
            return {"network": name, "axes": ndim, "error": f"{type(error).__name__}: {error}"[:500]}


def describe(record: dict[str, Any]) -> str:
    """Format the record as a page of Markdown."""
    titles = [title.replace("_", " ") for title in COLUMNS.split()]
    lines = [heading(record), "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in record["rows"]:
        start = f"| `{row['network']}` | {row['axes']} | "
        if "error" in row:
            lines.append(f"{start}refused: {row['error'].splitlines()[0]} |" + " |" * 7)
            continue
        lines.append(
            f"{start}{' x '.join(map(str, row['patch']))} | {row['parameters'] / 1e6:.2f} "
            f"| {row['difference']:.0e} | {row['export_s']:.0f} | {row['compare_s']:.1f} "
            f"| {row['file_mb']:.1f} | {row['nodes']} | {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all")
    parser.add_argument("--patch", type=int, nargs="+", metavar="N", help="of real networks: 2 or 3 sizes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = surroundings("cpu")
    record["versions"] |= {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    record["plan"] = args.patch or {**{f"{n}d": sizes for n, sizes in SMALL.items()}, **FIXED}
    record["rows"] = []
    for name, ndim in list_rows(args.networks or [*list_networks(), *WORDS], args.patch):
        row = in_a_process(name, ndim, args.patch, args.threads)
        print(json.dumps(row), flush=True)
        record["rows"].append(row)
        if args.record:
            write(args.record, record, describe(record))
    print(describe(record))


if __name__ == "__main__":
    main()
