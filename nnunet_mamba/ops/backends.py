"""Choice of the implementation: the argument, else NNUNET_MAMBA_BACKEND, else the best for the device."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from nnunet_mamba.io.messages import format_unknown_name

ENVIRONMENT = "NNUNET_MAMBA_BACKEND"
BACKENDS = ("reference", "numba", "torch", "triton", "mamba_ssm")
OLDEST_TRITON = (3, 3)  # tuples as arguments of kernels; comes with torch 2.7
_logger = logging.getLogger("nnunet_mamba")


@lru_cache
def _numba_state() -> str:
    """Return "ok", or why numba cannot be used."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; run: pip install numba"
    try:
        import nnunet_mamba.ops.numba_scan  # noqa: F401
    except Exception as error:  # a broken numba must not break the package: the torch backend remains
        return f"numba cannot be used ({type(error).__name__}: {error})"
    return "ok"


def is_interpreting() -> bool:
    """Return whether Triton interprets its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@lru_cache
def _triton_state() -> str:
    """Return "ok", or why Triton cannot be used.

    Its first use builds a small launcher with the C compiler; a missing compiler is reported here, not later.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; on Linux: pip install triton"
    try:
        import triton

        if tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2]) < OLDEST_TRITON:
            oldest = ".".join(map(str, OLDEST_TRITON))
            return f"triton {triton.__version__} is too old; {oldest} comes with torch 2.7"
        if not is_interpreting():
            if torch.version.cuda is None or not torch.cuda.is_available():
                return "torch finds no NVIDIA GPU here"
            triton.runtime.driver.active.get_current_target()
        import nnunet_mamba.ops.triton_conv
        import nnunet_mamba.ops.triton_linear_attention
        import nnunet_mamba.ops.triton_scan  # noqa: F401
    except Exception as error:
        return f"triton cannot be used ({type(error).__name__}: {error})"
    return "ok"


@lru_cache
def _mamba_ssm_state() -> str:
    """Return "ok", or why mamba_ssm cannot be used.

    Newer releases of the package come without the compiled module unless it is asked for at installation.
    """
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba_ssm is not installed; the triton backend does without"
    if importlib.util.find_spec("selective_scan_cuda") is None:
        return "this mamba_ssm has no selective_scan_cuda (MAMBA_KEEP_CUDA_BUILD=TRUE builds it)"
    try:
        import mamba_ssm.ops.selective_scan_interface  # noqa: F401
    except Exception as error:  # built for another torch
        return f"mamba_ssm cannot be used ({type(error).__name__}: {error})"
    return "ok" if torch.cuda.is_available() else "torch finds no NVIDIA GPU here"


def available_backends() -> dict[str, str]:
    """Return "ok", or the reason why it cannot be used here, for each backend by name."""
    return {name: backend_status(name) for name in BACKENDS}


def backend_status(name: str) -> str:
    """Return "ok", or why a backend cannot be used.

    Nothing that the backend does not need is touched: CPU calls do not initialise CUDA, since they may fork.
    """
    checks = {"numba": _numba_state, "triton": _triton_state, "mamba_ssm": _mamba_ssm_state}
    return checks[name]() if name in checks else "ok"


def is_backend_requested(requested: str | None) -> bool:
    """Return whether a backend is named at all, in the call or in the environment."""
    return bool(requested or os.environ.get(ENVIRONMENT))


_forced: str | None = None


@contextmanager
def force_backend(name: str | None) -> Iterator[None]:
    """Make calls inside use this backend without checking that it runs here, for shapes alone; None does
    nothing."""
    global _forced
    before, _forced = _forced, name or _forced
    try:
        yield
    finally:
        _forced = before


def choose_backend(requested: str | None, device: str) -> str:
    """Return the name of the backend for tensors on `device` ("cpu", "cuda", ...).

    Raises ValueError if the requested one is unknown, cannot be used here, or is not made for the device.
    """
    if _forced is not None:
        return _forced
    name = requested or os.environ.get(ENVIRONMENT)
    if not name:
        return _best(device)
    if name not in BACKENDS:
        raise ValueError(format_unknown_name("backend", name, BACKENDS))
    state = device_status(name, device)
    if state != "ok":
        raise ValueError(f"Backend {name!r} was asked for, but {state}.")
    made_for = {"numba": "cpu", "mamba_ssm": "cuda", "triton": "cpu" if is_interpreting() else "cuda"}
    if made_for.get(name, device) != device:
        raise ValueError(
            f"Backend {name!r} runs on {made_for[name]}, but the tensors are on {device}; "
            "'torch' runs on any device."
        )
    return name


def device_status(name: str, device: str) -> str:
    """Return `backend_status` and, for Triton on a GPU, the result of the kernels' self-check."""
    state = backend_status(name)
    if (name, device, state) != ("triton", "cuda", "ok"):
        return state
    from nnunet_mamba.ops.self_check import find_kernel_error

    fault = find_kernel_error(torch.cuda.current_device())
    return f"its kernels fail here ({fault}); `nnunet-mamba doctor --gpu` looks closer" if fault else "ok"


# What torch.compiler.assume_constant_result does, without its import of all of torch._dynamo (3 s).
choose_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _best(device: str) -> str:
    """Return the automatic choice for a device; log it once."""
    ranking = {"cpu": ("numba",), "cuda": ("triton", "mamba_ssm")}.get(device, ())
    reasons = []
    for best in (*ranking, "torch"):
        state = device_status(best, device)
        if state == "ok":
            break
        reasons.append(f"{best}: {state}")
    if reasons:
        _logger.warning("The selective scan runs on backend %s (%s).", best, "; ".join(reasons))
    _logger.info("Selective scan on %s: backend %s.", device, best)
    return best
