"""Which implementation runs: argument, else NNUNET_MAMBA_BACKEND, else the best for the device."""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import lru_cache

ENVIRONMENT = "NNUNET_MAMBA_BACKEND"
_logger = logging.getLogger("nnunet_mamba")


@lru_cache
def _numba_state() -> str:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; run: pip install numba"
    try:
        import nnunet_mamba.ops.numba_scan  # noqa: F401
    except Exception as error:  # a broken numba must not break the package: the torch backend remains
        return f"numba cannot be used ({type(error).__name__}: {error})"
    return "ok"


def available_backends() -> dict[str, str]:
    """Each backend's name -> "ok", or the reason why it cannot be used here."""
    return {
        "reference": "ok",
        "numba": _numba_state(),
        "torch": "ok",
        "triton": "its kernels are not part of this release; NVIDIA GPUs use the torch backend",
        "mamba_ssm": "its adapter is not part of this release; the torch and numba backends need no compiler",
    }


def choose_backend(requested: str | None, device: str) -> str:
    """The backend for tensors on `device` ("cpu", "cuda", ...).

    Raises ValueError if the one asked for is unknown, unusable here, or not made for the device.
    """
    name = requested or os.environ.get(ENVIRONMENT) or _best(device)
    state = available_backends().get(name)
    if state is None:
        raise ValueError(f"Unknown backend {name!r}; choose one of {', '.join(available_backends())}.")
    if state != "ok":
        raise ValueError(f"Backend {name!r} was asked for, but {state}.")
    if name == "numba" and device != "cpu":
        raise ValueError(
            f"Backend 'numba' runs on the CPU, but the tensors are on {device}; use 'torch' there."
        )
    return name


# What torch.compiler.assume_constant_result does, without its import of all of torch._dynamo (3 s).
choose_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _best(device: str) -> str:
    """The automatic choice, announced once."""
    if device != "cpu":
        best = "torch"
    else:
        best = "numba" if _numba_state() == "ok" else "torch"
        if best == "torch":
            _logger.warning("The selective scan runs on the slower torch backend: %s.", _numba_state())
    _logger.info("Selective scan on %s: backend %s.", device, best)
    return best
