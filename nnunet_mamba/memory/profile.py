"""A device, as numbers measured once: how fast it works, and what its libraries take for themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_mamba.io.resources import check_device
from nnunet_mamba.memory.work import GROUPS, UNITS
from nnunet_mamba.ops.backends import BACKENDS

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """device          of torch: cpu or cuda
    description     the hardware, its threads and the versions of what ran
    precision       fp32 or fp16: what the times were measured in
    backend         of the selective scan
    scratch         factors of `scratch_of`; none where they are not measured: tensors alone are counted then
    overhead_bytes  what a first training step takes beside all else
    kernel_bytes    what a library keeps of each different convolution that it has met
    seconds         per unit of work; none where they are not measured
    """

    device: str
    description: str
    precision: str
    backend: str
    scratch: Mapping[str, float]
    overhead_bytes: int
    kernel_bytes: int
    seconds: Mapping[str, float]

    def times(self, work: Mapping[str, float]) -> dict[str, float]:
        """Seconds for amounts of work by unit, in groups of units."""
        return {
            group: sum(work.get(unit, 0) * self.seconds[unit] for unit in units)
            for group, units in GROUPS.items()
        }

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


UNMEASURED_CUDA = Profile("cuda", "not measured", "fp16", "triton", {}, 0, 0, {})


def load_profile(name: str) -> Profile:
    """A profile of this package by name, or the file of one; "cuda", while not measured, knows tensors alone.

    ValueError for others."""
    check_device(name)
    path = Path(name) if name.endswith(".json") else PROFILES / f"{name}.json"
    return _read(path) if path.is_file() else UNMEASURED_CUDA


def _read(path: Path) -> Profile:
    """ValueError for what `save` did not write, or wrote when units of work were others."""
    try:
        profile = Profile(**json.loads(path.read_text()))
        units = set(profile.seconds)
        if profile.device not in ("cpu", "cuda") or profile.backend not in BACKENDS:
            raise ValueError(f"device {profile.device!r}, backend {profile.backend!r}")
        if units and units != set(UNITS):
            raise ValueError(f"other units of work: {', '.join(sorted(units ^ set(UNITS)))}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no profile of a device ({error}); expected a file that this version wrote: "
            f"nnunet-mamba estimate --measure NAME.json."
        ) from error
    return profile
