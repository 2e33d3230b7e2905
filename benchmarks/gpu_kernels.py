"""Facts about the GPU kernels without a GPU: how many a network needs, what a call costs the CPU, and the
machine code that they become.

    python benchmarks/gpu_kernels.py --record benchmarks/results/gpu_kernels

Kernels: distinct ones that Triton is asked for in a training step of each network on the published plan,
whose tensors have no memory here. CPU time: of one thread, the median of calls whose launches end in a driver
that does nothing (`stub_driver`): forward for training and its backward pass, autograd included, of a scan,
of a linear attention and of a convolution as the networks call them; needs a C compiler. Machine code: of
each kernel of a scan with two directions and 16 states, of a linear attention with 32, and of a convolution,
float32, memory order: registers of a thread, bytes on its stack (spilled), shared memory of a program, and
instructions per step in each inner loop (of linear attention: per turn), of which in brackets those of the
special function unit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import stub_driver
import torch
from networks import PLANS, build, ndim_of
from records import heading, surroundings, write
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_mamba.ops import (
    backends,
    custom_ops,
    multi_directional_conv1d,
    multi_directional_linear_attention,
    multi_directional_scan,
)

NETWORKS = ("mm_unet", "mamba_multi", "umamba_enc", "umamba_bot", "vm_unet")
CAPABILITIES = (80, 90, 120)
PROCESSORS = 132  # of an H100
CALLS = {  # directions, tokens; 64 channels
    "short, 1 direction": (1, 100),
    "1 direction": (1, 300),
    "2 directions": (2, 300),
}


class OnMeta(TorchDispatchMode):
    """Mode that runs our operators on tensors without memory as on those of a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        ours = {
            custom_ops.scan: custom_ops._scan,
            custom_ops.scan_backward: custom_ops._scan_backward,
            custom_ops.linear_attention: custom_ops._linear_attention,
            custom_ops.linear_attention_backward: custom_ops._linear_attention_backward,
            custom_ops.conv: custom_ops._conv,
            custom_ops.conv_backward: custom_ops._conv_backward,
        }
        return ours.get(function, function)(*args, **(kwargs or {}))


def planning_modules() -> tuple[Any, ...]:
    """Return the modules that plan calls of Triton's kernels."""
    from nnunet_mamba.ops import triton_conv, triton_linear_attention, triton_scan

    return triton_scan, triton_linear_attention, triton_conv


def kernels_of(name: str) -> Counter[str]:
    """Count the kernels by name that a training step of a network asks Triton for."""
    import triton

    from nnunet_mamba.ops.triton_launch import Kernel

    for module in planning_modules():
        module._plans.clear()
    keys: set[tuple[str, str]] = set()

    def note(key: Any, fn: Any, **_: Any) -> bool:
        keys.add((fn.name.split(".")[-1], str(key)))
        return True  # and do not compile

    call, at_once, hooks = Kernel.__call__, Kernel.at_once, triton.knobs.runtime
    Kernel.__call__ = lambda kernel, grid, values: None  # type: ignore[method-assign]
    Kernel.at_once = lambda kernel: 12  # type: ignore[method-assign]
    hooks.jit_cache_hook = note
    try:
        with torch.device("meta"), backends.force_backend("triton"), OnMeta():
            plan = PLANS["published"][ndim_of(name)]
            network = build(name, ndim_of(name), "published")
            outputs = network(torch.empty(plan["batch"], plan["input_channels"], *plan["patch_size"]))
            total = sum(y.sum() for y in outputs) if isinstance(outputs, list) else outputs.sum()
            total.backward()
    finally:
        hooks.jit_cache_hook = None
        Kernel.__call__, Kernel.at_once = call, at_once  # type: ignore[method-assign]
    return Counter(kernel for kernel, _ in keys)


def microseconds(call: Callable[[], Any], repeats: int = 400) -> float:
    """Return the median time of a call in this thread."""
    times = []
    for _ in range(repeats + 20):
        start = time.thread_time()
        call()
        times.append(1e6 * (time.thread_time() - start))
    return median(times[20:])


def host_time(k: int, tokens: int) -> dict[str, float]:
    """Return CPU microseconds of a scan, a linear attention and a convolution, forward and backward."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, requires_grad=True)

    reverse = [direction % 2 == 1 for direction in range(k)]
    scanned = [random(k, 1, tokens, 64), random(k, 1, tokens, 64), random(k, 64, 16)]
    scanned += [random(k, 1, 1, tokens, 16), random(k, 1, 1, tokens, 16), random(k, 64)]
    scanned += [random(1, tokens, 64), random(k, 64)]
    filtered = [random(1, 1, tokens, 64), random(k, 64, 4), random(k, 64)]

    def scan() -> torch.Tensor:
        return multi_directional_scan(*scanned, True, reverse=reverse)  # type: ignore[arg-type]

    log_decay = (-torch.rand(k, 1, tokens, 2)).requires_grad_()
    attended = [
        random(1, 1, tokens, 2, 32),
        log_decay,
        random(k, 1, tokens, 1, 32),
        random(k, 1, tokens, 1, 32),
    ]

    def attend() -> torch.Tensor:
        return multi_directional_linear_attention(*attended, reverse=reverse)

    def convolve() -> torch.Tensor:
        return multi_directional_conv1d(*filtered, "silu", reverse=reverse)  # type: ignore[arg-type]

    found = {}
    with backends.force_backend("triton"):
        calls = {
            "scan": (scan, scanned),
            "attention": (attend, attended),
            "convolution": (convolve, filtered),
        }
        for name, (call, inputs) in calls.items():
            y = call()
            dy = torch.ones_like(y)
            found[f"{name}, forward"] = microseconds(call)
            both = microseconds(lambda: torch.autograd.grad(call(), inputs, dy))  # noqa: B023
            found[f"{name}, backward"] = both - found[f"{name}, forward"]
    return found


def machine_code() -> list[dict[str, Any]]:
    """Describe the kernels of the cached plans, for the GPU that the driver names."""
    scan, attention, conv = (list(module._plans.values())[-1] for module in planning_modules())
    kernels = {named(*key): kernel for key, kernel in scan.kernels.items()}
    kernels |= {f"attention: {named_attention(*key)}": kernel for key, kernel in attention.kernels.items()}
    kernels |= {"conv forward": conv.kernel, "conv backward": conv.gradients[0]}
    return [{"kernel": name, **describe(kernel._runner)} for name, kernel in kernels.items()]


def named(phase: str, part: str | tuple[str, ...]) -> str:
    if isinstance(part, str):
        return f"{phase} {part}"
    return f"{phase}, adding to {' and '.join(part)}" if part else phase


def named_attention(name: str, output: str, *constants: Any) -> str:
    return f"{name} of {output}{', adding' if name == 'outputs' and constants[0] else ''}"


def describe(compiled: Any) -> dict[str, Any]:
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()

        def output(*command: str) -> str:
            run = [str(tools / command[0]), *command[1:], file.name]
            return subprocess.run(run, capture_output=True, text=True, check=True).stdout

        usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", output("cuobjdump", "-res-usage"))
        loops = inner_loops(output("nvdisasm", "-c"))
    assert usage
    names = ("registers", "stack_bytes", "shared_bytes")
    return {**dict(zip(names, map(int, usage.groups()), strict=True)), "loops": loops}


def inner_loops(sass: str) -> list[dict[str, int]]:
    """Count instructions, and those of the special function unit, of each innermost loop."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_\w+):", line)
        instruction = re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if label:
            labels[label[1]] = len(lines)
        if instruction:
            lines.append(instruction[1])
    jumps = [(i, re.search(r"\bBRA.*`\((\.L_\w+)\)", line)) for i, line in enumerate(lines)]
    loops = [(labels[jump[1]], i) for i, jump in jumps if jump and labels.get(jump[1], i + 1) < i]
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    bodies = [lines[a : b + 1] for a, b in inner]
    return [{"instructions": len(body), "special": sum("MUFU" in line for line in body)} for body in bodies]


def steps_of_loop(kernel: str) -> int:
    """Return the steps of an inner loop's turn; those of linear attention are counted by the turn."""
    from nnunet_mamba.ops.constants import UNROLL
    from nnunet_mamba.ops.triton_conv import UNROLL as CONV_UNROLL

    if kernel.startswith("attention"):
        return 1
    if kernel.startswith("conv"):
        return CONV_UNROLL
    return 8 if kernel.endswith("carry") else UNROLL[kernel.replace(",", " ").split()[0]]


def page(record: dict[str, Any]) -> str:
    lines = [heading(record), "", "| network | kernels of a training step | of them |", "|---|---|---|"]
    for name, kernels in record["kernels"].items():
        each = ", ".join(f"{kernel} {count}" for kernel, count in sorted(kernels.items()))
        lines.append(f"| {name} | {sum(kernels.values())} | {each} |")
    columns = list(next(iter(record["host_microseconds"].values())))
    lines += ["", f"| CPU microseconds | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, times in record["host_microseconds"].items():
        lines.append(f"| {name} | {' | '.join(f'{times[column]:.0f}' for column in columns)} |")
    names = ("kernel", "capability", "registers", "stack", "shared", "instructions per step")
    lines += ["", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in record["machine_code"]:
        steps = steps_of_loop(row["kernel"])
        each = [(loop["instructions"] / steps, loop["special"] / steps) for loop in row["loops"]]
        loops = [f"{instructions:.0f} ({special:.0f})" for instructions, special in each]
        sizes = f"{row['registers']} | {row['stack_bytes']} | {row['shared_bytes']}"
        lines.append(f"| {row['kernel']} | {row['capability']} | {sizes} | {', '.join(loops)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--record", type=Path, help="write this path with .json and .md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    from nnunet_mamba.ops import triton_conv_kernels, triton_kernels, triton_linear_attention_kernels

    kernels = (triton_kernels, triton_conv_kernels, triton_linear_attention_kernels)
    for module in planning_modules():
        module.processors = lambda device: PROCESSORS  # type: ignore[attr-defined]
    record: dict[str, Any] = {**surroundings("cpu"), "machine_code": []}
    with tempfile.TemporaryDirectory() as folder:
        driver = stub_driver.install(Path(folder))
        record["kernels"] = {name: dict(kernels_of(name)) for name in args.networks}
        record["host_microseconds"] = {name: host_time(*sizes) for name, sizes in CALLS.items()}
        for capability in CAPABILITIES:
            driver.capability = capability
            for function in (function for module in kernels for function in vars(module).values()):
                getattr(function, "device_caches", {}).clear()
            for module in planning_modules():
                module._plans.clear()
            host_time(2, 300)
            record["machine_code"] += [{"capability": capability, **row} for row in machine_code()]
    text = page(record)
    if args.record:
        write(args.record, record, text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
