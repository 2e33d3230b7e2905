"""Where a result comes from: versions, commit, GPU. Asks files and small programs only."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nnunet_mamba

PACKAGES = ("torch", "nnunetv2", "numba", "triton", "mamba-ssm")


def provenance(*, gpu: bool) -> dict[str, Any]:
    """By name; `gpu` asks for the cards too, which takes a moment."""
    return {
        "nnunet_mamba": nnunet_mamba.__version__,
        "commit": commit(Path(nnunet_mamba.__path__[0]).parent),
        "python": platform.python_version(),
        **{name: installed(name) for name in PACKAGES},
        "gpus": gpu_names() if gpu else [],
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(checkout: Path) -> str | None:
    """Of the sources, with "+changes" where they differ from it; None outside of a checkout."""
    if not (checkout / ".git").exists():
        return None
    head = answer("git", "-C", str(checkout), "rev-parse", "HEAD")
    changes = answer("git", "-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changes else head or None


def gpu_names() -> list[str]:
    """As the driver calls them, with its version: all cards of this host, visible to the job or not."""
    return answer("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()


def answer(*command: str) -> str:
    """What a program prints; nothing where it is missing, fails, or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
