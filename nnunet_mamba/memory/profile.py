"""Profiles of devices: the memory that their libraries take beside tensors, measured once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_mamba.io.resources import check_device
from nnunet_mamba.ops.backends import BACKENDS

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """Numbers of a device.

    device          of torch: cpu or cuda
    description     hardware, threads and versions
    precision       fp32 or fp16, of a step unless another is asked for
    backend         of the selective scan
    workspace       factors of `workspace_of`; empty if not measured: then tensors alone are counted
    overhead_bytes  memory of a first training step apart from all else
    kernel_bytes    memory that a library keeps for each different convolution
    """

    device: str
    description: str
    precision: str
    backend: str
    workspace: Mapping[str, float]
    overhead_bytes: int
    kernel_bytes: int

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


UNMEASURED_CUDA = Profile("cuda", "not measured", "fp16", "triton", {}, 0, 0)


def load_profile(name: str) -> Profile:
    """Load a profile of this package by name, or a file of one. ValueError for others.

    "cuda", which is not measured, counts tensors alone.
    """
    check_device(name)
    path = Path(name) if name.endswith(".json") else PROFILES / f"{name}.json"
    return _read(path) if path.is_file() else UNMEASURED_CUDA


def _read(path: Path) -> Profile:
    """Read a file. ValueError if `save` did not write it, this version's or an earlier one's."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content.pop("seconds", None)  # earlier versions estimated time, too
        if "scratch" in content:  # their name of the workspace
            content["workspace"] = content.pop("scratch")
        profile = Profile(**content)
        if profile.device not in ("cpu", "cuda") or profile.backend not in BACKENDS:
            raise ValueError(f"device {profile.device!r}, backend {profile.backend!r}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a device profile ({error}); expected a file that was written by "
            f"nnunet-mamba estimate --measure NAME.json."
        ) from error
    return profile
