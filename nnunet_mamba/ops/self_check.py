"""Whether the Triton kernels compute what they should, on this GPU and with this software: found out once.

    python -m nnunet_mamba.ops.self_check DEVICE [wide]        prints what `examine` gives, as JSON

Small scans and convolutions, outputs and all gradients, are compared with the torch backend in float64. That
runs in a process of its own: a kernel that writes where it should not leaves no process fit for CUDA.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.ops.backends import assumed, state_of
from nnunet_mamba.ops.scan import causal_conv1d_walks, sum_of_scans
from nnunet_mamba.writing import write_json

CACHE = "NNUNET_MAMBA_CACHE"  # environment: the folder; default ~/.cache/nnunet_mamba
LONGEST = 600  # seconds that a check may take, compilation included
ALLOWED = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of a tensor's largest value
SCAN = ("y", "du", "ddelta", "dA", "dB", "dC", "dD", "dz", "dbias")
TIMED = (2, 2, 32 * 80 * 80, 128)  # walks, batch, tokens, channels; 16 states, float32
CONVOLUTION = ("y", "dx", "dweight", "dbias")
_logger = logging.getLogger("nnunet_mamba")


@dataclass(frozen=True)
class Case:
    """A scan of (walks, batch, length, channels, states), or with `taps` a convolution."""

    walks: int
    batch: int
    length: int
    channels: int
    states: int = 16
    groups: int = 1
    taps: int = 0
    table: bool = False  # of rows, a permutation for each walk
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        what = f"convolution with {self.taps} taps" if self.taps else f"scan with {self.states} states"
        sizes = f"{self.walks} walk(s), batch {self.batch}, {self.length} tokens, {self.channels} channels"
        way = "by a table" if self.table else "in memory order"
        return f"{what}, {sizes}, {self.groups} group(s), {way}, {str(self.dtype)[6:]}"


HALF = {"dtype": torch.float16, "table": True}
FEW = (
    Case(1, 2, 131, 40),
    Case(2, 1, 300, 72, 5, **HALF),  # type: ignore[arg-type]
    Case(2, 2, 67, 64, groups=2, table=True),
    Case(1, 2, 131, 40, taps=4),
    Case(2, 1, 67, 72, taps=4, **HALF),  # type: ignore[arg-type]
)
MANY = (
    *FEW,
    Case(2, 1, 5000, 128),
    Case(2, 1, 5000, 128, dtype=torch.float16),
    Case(4, 2, 784, 96, dtype=torch.bfloat16, table=True),
    Case(1, 1, 300, 64, states=64),
    Case(12, 1, 120, 33, states=3, table=True),
    Case(1, 1, 1, 1, states=1),
    Case(4, 2, 784, 96, taps=3, dtype=torch.bfloat16, table=True),
)


def results(case: Case, device: torch.device, backend: str) -> dict[str, Tensor]:
    """By name, in float64 if the backend is torch's; numbers are the same for all backends."""
    torch.manual_seed(0)
    k, b, length, d, n, g = case.walks, case.batch, case.length, case.channels, case.states, case.groups
    exact = torch.float64 if backend == "torch" else None

    def random(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(shape).to(dtype).to(device, exact or dtype).requires_grad_()

    rows = torch.stack([torch.randperm(length) for _ in range(k)]).to(device, torch.int32)
    if case.taps:
        inputs = [random(1, b, length, d), random(k, d, case.taps), random(k, d)]
        compute: Callable[..., Tensor] = partial(causal_conv1d_walks, activation="silu")
    else:
        of_token = [random(k, b, length, d), random(k, b, length, d)]
        A = (-0.2 - 3 * torch.rand(k, d, n)).to(device, exact or torch.float32).requires_grad_()
        states = [random(k, b, g, length, n), random(k, b, g, length, n)]
        inputs = [*of_token, A, *states, random(k, d), random(b, length, d), random(k, d)]
        compute = partial(sum_of_scans, delta_softplus=True)
    with assumed(backend):
        y = compute(*inputs, rows=rows if case.table else None, reverse=[i % 2 == 1 for i in range(k)])
    dy = torch.randn(y.shape).to(y.device, y.dtype)
    names = CONVOLUTION if case.taps else SCAN
    return dict(zip(names, (y.detach(), *torch.autograd.grad(y, inputs, dy)), strict=True))


def faults(device: torch.device, cases: tuple[Case, ...] = FEW, backend: str = "triton") -> Iterator[str]:
    """What differs by more than ALLOWED, a line for each case."""
    for case in cases:
        try:
            found, exact = results(case, device, backend), results(case, device, "torch")
        except Exception as error:
            yield f"{case}: {type(error).__name__}: {error}"
            continue
        wrong = {}
        for name, truth in exact.items():
            off = float((found[name].double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))
            if not off <= ALLOWED[case.dtype]:  # NaN is a fault, too
                wrong[name] = off
        if wrong:
            named = ", ".join(f"{name} off by {off:.1e} of its largest value" for name, off in wrong.items())
            yield f"{case}: {named} (allowed {ALLOWED[case.dtype]:.0e})"


def milliseconds(device: torch.device, backend: str) -> tuple[float, float]:
    """Of the scan TIMED and of its gradients, the shortest of a few runs."""
    k, b, length, d = TIMED
    u, delta = (torch.randn(k, b, length, d, device=device, requires_grad=True) for _ in range(2))
    B, C = (torch.randn(k, b, 1, length, 16, device=device, requires_grad=True) for _ in range(2))
    A, best = -torch.rand(k, d, 16, device=device), (float("inf"), float("inf"))
    for _ in range(6):
        start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        start.record()
        with assumed(backend):
            y = sum_of_scans(u, delta, A, B, C, delta_softplus=True, reverse=[False, True])
        middle.record()
        torch.autograd.grad(y, [u, delta, B, C], torch.ones_like(y))
        end.record()
        torch.cuda.synchronize(device)
        best = min(best[0], start.elapsed_time(middle)), min(best[1], middle.elapsed_time(end))
    return best


@lru_cache
def fault_of(device: int) -> str | None:
    """What is wrong with the Triton kernels on this GPU, or None; looked for where no file says it."""
    try:
        return json.loads(_file(device).read_text())["fault"]
    except (OSError, ValueError, KeyError, TypeError):
        _logger.info("Checking the GPU kernels, once per card and software.")
        return "; ".join(examine(device)["faults"]) or None


def examine(device: int, wide: bool = False) -> dict[str, Any]:
    """`faults`, found anew and kept, of FEW or, if `wide`, MANY cases, and then `milliseconds` by backend."""
    command = [sys.executable, "-m", "nnunet_mamba.ops.self_check", str(device), *["wide"] * wide]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        found = {"faults": [f"they did not end within {LONGEST} s"]}
    except OSError:  # no process to be had
        found = _here(device, wide)
    else:
        last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
        elif "busy or unavailable" in done.stderr:  # a card in exclusive mode takes no second process
            found = _here(device, wide)
        else:
            found = {"faults": [f"their check ended with exit code {done.returncode}: {last[0]}"]}
    try:
        write_json(_file(device), {"of": _key(device), "fault": "; ".join(found["faults"]) or None})
    except OSError as error:
        _logger.info("The GPU's self-check is not kept (%s): each process repeats it.", error)
    return found


def _here(device: int, wide: bool) -> dict[str, Any]:
    """What `examine` finds, in this process."""
    of = torch.device("cuda", device)
    if not wide:
        return {"faults": list(faults(of))}
    usable = ("triton", *(["mamba_ssm"] if state_of("mamba_ssm") == "ok" else []))
    times = {backend: milliseconds(of, backend) for backend in usable}
    return {"faults": list(faults(of, MANY)), "milliseconds": times}


def _file(device: int) -> Path:
    """That keeps the verdict."""
    folder = os.environ.get(CACHE) or "~/.cache/nnunet_mamba"
    name = hashlib.sha256(_key(device).encode()).hexdigest()[:16]
    # not Path.expanduser, which raises for a user without a home
    return Path(os.path.expanduser(folder)) / "self_check" / f"{name}.json"  # noqa: PTH111


def _key(device: int) -> str:
    """What a verdict depends on."""
    import triton

    own = sorted(Path(__file__).parent.glob("triton_*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in own)).hexdigest()
    return f"{card(device)}, triton {triton.__version__}, kernels {code[:16]}"


def card(device: int) -> str:
    """A GPU and the software below Triton."""
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    software = f"driver {driver}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)} (capability {capability}), {software}"


if __name__ == "__main__":
    torch.cuda.set_device(int(sys.argv[1]))
    sys.stdout.write(json.dumps(_here(int(sys.argv[1]), "wide" in sys.argv)) + "\n")
