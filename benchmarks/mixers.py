"""How the layers over tokens scale: forward and backward of one mixer on grids of up to two million voxels.

    python benchmarks/mixers.py --record benchmarks/results/mixers_cpu
    python benchmarks/mixers.py --device cuda --record benchmarks/results/mixers_cuda

writes <record>.json and the table <record>.md. Each row is a mixer as networks have it (norm, layer, float32)
on a map of --channels channels; each measurement has a process of its own, whose peak memory beyond the map
and its gradient is given. `attention` is cut into windows of 4,096 tokens; `attention, whole` is not. Both
stop at the grids of LONGEST, beyond which they take minutes on a CPU. Networks with each mixer in the same
places: benchmarks/networks.py NAME:mixer=WORD.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from networks import memory, seconds
from records import heading, publish, surroundings

from nnunet_mamba.blocks.mixers import LAYERS, VoxelMixer
from nnunet_mamba.io.cpu import wait_passively

EDGES = (8, 16, 32, 64, 128)  # of the grid
WHOLE = "attention, whole"
ROWS = (*LAYERS, WHOLE)
LONGEST = {"attention": 64, WHOLE: 32}  # edges


def build(row: str, channels: int) -> VoxelMixer:
    options = {"kind": "attention", "max_tokens": 2**62} if row == WHOLE else {"kind": row}
    return VoxelMixer(channels, 3, **options)


def measure(row: str, edge: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one mixer on one grid in this process: the faster of two runs, after one on a small grid."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    mixer = build(row, args.channels).to(device)

    def step(x: torch.Tensor) -> None:
        mixer(x).backward(dy[tuple(map(slice, x.shape))])
        mixer.zero_grad(set_to_none=True)

    dy = torch.randn(1, args.channels, *[edge] * 3, device=device)
    step(torch.randn(1, args.channels, 8, 8, 8, device=device, requires_grad=True))
    x = torch.randn(1, args.channels, *[edge] * 3, device=device, requires_grad=True)
    x.grad = torch.zeros_like(x)
    start = memory(device)
    times = [seconds(lambda: step(x), device) for _ in range(2)]
    return {"step_ms": 1e3 * min(times), "peak_mib": (memory(device) - start) / 2**20}


def in_a_process(row: str, edge: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a new process; {"error": ...} where it fails."""
    command = [sys.executable, __file__, "--child", row, str(edge), "--device", args.device]
    command += ["--threads", str(args.threads), "--channels", str(args.channels)]
    done = subprocess.run(command, capture_output=True, text=True)
    result: dict[str, Any] = {"mixer": row, "tokens": edge**3}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {**result, "error": lines[-1][:200]}
    return {**result, **json.loads(done.stdout.splitlines()[-1])}


def table(rows: list[dict[str, Any]]) -> str:
    """Format a table of mixers by tokens: milliseconds, and MiB beyond the map."""
    tokens = sorted({row["tokens"] for row in rows})
    heads = " | ".join(f"{n:,} tokens" for n in tokens)
    lines = [
        f"| forward and backward, ms (peak memory, MiB) | {heads} | growth |",
        f"|---|{'---|' * (len(tokens) + 1)}",
    ]
    for mixer in dict.fromkeys(row["mixer"] for row in rows):
        own = {row["tokens"]: row for row in rows if row["mixer"] == mixer}
        cells = [_cell(own.get(n)) for n in tokens]
        lines.append(f"| {mixer} | {' | '.join(cells)} | {_growth(own)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return row.get("error") or f"{row['step_ms']:.3g} ({row['peak_mib']:.0f})"


def _growth(rows: dict[int, dict[str, Any]]) -> str:
    """Return the exponent by which time grows with the number of tokens, over the last two grids."""
    measured = [row for _, row in sorted(rows.items()) if "error" not in row][-2:]
    if len(measured) < 2:
        return ""
    before, after = measured
    slope = math.log(after["step_ms"] / before["step_ms"]) / math.log(after["tokens"] / before["tokens"])
    return f"tokens^{slope:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES, help="of the grids, in voxels")
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    parser.add_argument("--child", nargs=2, metavar=("ROW", "EDGE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[0], int(args.child[1]), args)))
        return
    torch.set_num_threads(args.threads)
    wait_passively()
    rows = []
    for row in ROWS:
        for edge in args.edges:
            if edge <= LONGEST.get(row, edge):
                rows.append(in_a_process(row, edge, args))
                print(json.dumps(rows[-1]), flush=True)
    record = {**surroundings(args.device), "channels": args.channels, "rows": rows}
    publish(record, f"{heading(record)} {args.channels} channels, one item.\n\n{table(rows)}\n", args.record)


if __name__ == "__main__":
    main()
