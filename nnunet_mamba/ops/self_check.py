"""Self-check of the Triton kernels, run once for each GPU and its software.

    python -m nnunet_mamba.ops.self_check DEVICE [wide]        prints the result of `run_self_check` as JSON

Small scans, linear attentions and convolutions, outputs and all gradients, are compared with the torch
backend in float64. That runs in a process of its own, since a kernel that writes to a wrong address leaves
CUDA unusable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_mamba.io.atomic import write_json
from nnunet_mamba.ops.backends import backend_status, force_backend
from nnunet_mamba.ops.kernel_cases import FEW, MANY, KernelCase, compute_results
from nnunet_mamba.ops.scan import multi_directional_scan

CACHE = "NNUNET_MAMBA_CACHE"  # environment: the folder; default ~/.cache/nnunet_mamba
LONGEST = 300  # seconds that a check may take, compilation included
ALLOWED = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # of a tensor's largest value
TIMED = (2, 2, 32 * 80 * 80, 128)  # directions, batch, tokens, channels; 16 states, float32
NO_PROCESS = "busy or unavailable"  # CUDA's words for a card that takes no second process
# Words of failures that may be gone the next time.
TEMPORARY = (NO_PROCESS, "out of memory", "OutOfMemory", "exit code -9", "did not end")
_logger = logging.getLogger("nnunet_mamba")
_checking = threading.Lock()


def compare(
    device: torch.device, cases: tuple[KernelCase, ...], backend: str = "triton"
) -> dict[str, list[str]]:
    """Return `differ`, the cases with errors larger than ALLOWED, and `fail`, those that raise."""
    found: dict[str, list[str]] = {"differ": [], "fail": []}
    for case in cases:
        try:
            computed, exact = (compute_results(case, device, name) for name in (backend, "torch"))
            off = {name: _off(computed[name], truth) for name, truth in exact.items()}
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            found["fail"].append(f"{case}: {text}")
            if "CUDA error" in text:  # of this process, nothing more is to be learnt
                break
            continue
        allowed = ALLOWED[case.dtype]
        wrong = [f"{name} off by {size:.1e}" for name, size in off.items() if not size <= allowed]  # NaN, too
        if wrong:
            found["differ"].append(f"{case}: {', '.join(wrong)} of the largest value (allowed {allowed:.0e})")
    return found


def _off(computed: Tensor, exact: Tensor) -> float:
    """Return the largest error, relative to the largest value."""
    return float((computed.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def time_scan(device: torch.device, backend: str) -> tuple[float, float]:
    """Return the time in milliseconds of the scan TIMED and of its gradients, the shortest of a few runs."""
    k, b, length, d = TIMED
    u, delta = (torch.randn(k, b, length, d, device=device, requires_grad=True) for _ in range(2))
    B, C = (torch.randn(k, b, 1, length, 16, device=device, requires_grad=True) for _ in range(2))
    A, best = -torch.rand(k, d, 16, device=device), (float("inf"), float("inf"))
    for _ in range(6):
        start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        start.record()
        with force_backend(backend):
            y = multi_directional_scan(u, delta, A, B, C, delta_softplus=True, reverse=[False, True])
        middle.record()
        torch.autograd.grad(y, [u, delta, B, C], torch.ones_like(y))
        end.record()
        torch.cuda.synchronize(device)
        best = min(best[0], start.elapsed_time(middle)), min(best[1], middle.elapsed_time(end))
    return best


def find_kernel_error(device: int) -> str | None:
    """Return what is wrong with the Triton kernels on this GPU, or None; check them if no file says it."""
    with _checking:  # by one thread
        return _find_fault(device)


@lru_cache
def _find_fault(device: int) -> str | None:
    """Return `find_kernel_error`, once per process."""
    kept = read_cached_result(device)
    if kept is None:
        _logger.warning("Checking the GPU kernels, once for this card and software; it may take a minute.")
        found = run_self_check(device)
        kept = {"fault": "; ".join(found["differ"] + found["fail"])}
    return kept["fault"] or None


def read_cached_result(device: int) -> dict[str, str] | None:
    """Return the verdict of an earlier process, or None: `fault` is empty if all was right."""
    try:
        kept = json.loads(_file(device).read_text(encoding="utf-8"))
        return {"fault": str(kept["fault"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_self_check(device: int, wide: bool = False) -> dict[str, Any]:
    """Check the kernels with FEW cases, or if `wide` with MANY, and then also time a scan of each backend.

    The verdict is written to a file, unless something failed for lack of memory, time or a process.
    """
    command = [sys.executable, "-m", "nnunet_mamba.ops.self_check", str(device), *["wide"] * wide]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    seconds = LONGEST * (1 + wide)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        found = _printed(done)
    except subprocess.TimeoutExpired:
        found = {"differ": [], "fail": [f"they did not end within {seconds} s"]}
    except OSError:
        found = {"differ": [], "fail": [NO_PROCESS]}
    if any(NO_PROCESS in fault for fault in found["fail"]):  # perhaps the card is this process's alone
        found = _here(device, wide)
    if not any(word in fault for word in TEMPORARY for fault in found["fail"]):
        try:
            verdict = "; ".join(found["differ"] + found["fail"])
            write_json(_file(device), {"of": _key(device), "fault": verdict})
        except OSError as error:
            _logger.info("The GPU's self-check could not be saved (%s): each process repeats it.", error)
    return found


def _printed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what the process printed, or how it ended."""
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        why = done.stderr.strip().splitlines()[-1:] or ["without a word"]
        return {"differ": [], "fail": [f"their check ended with exit code {done.returncode}: {why[0]}"]}


def _here(device: int, wide: bool) -> dict[str, Any]:
    """Check the kernels in this process, whatever its state of autograd and autocast."""
    of = torch.device("cuda", device)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cuda", enabled=False):
        found: dict[str, Any] = {**compare(of, MANY if wide else FEW)}
        if wide:
            usable = ("triton", *(["mamba_ssm"] if backend_status("mamba_ssm") == "ok" else []))
            found["milliseconds"] = {backend: _timed(of, backend) for backend in usable}
    return found


def _timed(device: torch.device, backend: str) -> list[float] | str:
    """Return the times of `time_scan`, or its error."""
    try:
        return list(time_scan(device, backend))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _file(device: int) -> Path:
    """Return the file of a GPU's verdict."""
    folder = os.environ.get(CACHE) or "~/.cache/nnunet_mamba"
    name = hashlib.sha256(_key(device).encode()).hexdigest()[:16]
    # not Path.expanduser, which raises for a user without a home
    return Path(os.path.expanduser(folder)) / "self_check" / f"{name}.json"  # noqa: PTH111


def _key(device: int) -> str:
    """Return a text of all that a verdict depends on."""
    import triton

    here = Path(__file__).parent
    own = [here / "constants.py", *sorted(here.glob("triton_*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in own)).hexdigest()
    return f"{describe_gpu(device)}, triton {triton.__version__}, kernels {code[:16]}"


def describe_gpu(device: int) -> str:
    """Return the name of a GPU and of the software below Triton."""
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
    software = f"driver {driver}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)} (capability {capability}), {software}"


if __name__ == "__main__":
    torch.cuda.set_device(int(sys.argv[1]))
    sys.stdout.write(json.dumps(_here(int(sys.argv[1]), "wide" in sys.argv)) + "\n")
