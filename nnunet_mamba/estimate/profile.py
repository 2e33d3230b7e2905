"""A device, as numbers measured once: how fast it works, and what its libraries take for themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

PROFILES = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """name           of the file, such as cpu
    device         of torch: cpu or cuda
    description    the device, its threads and the versions of what ran
    precision      fp32 or fp16: what the times were measured in
    backend        of the selective scan
    scratch        factors of `scratch_of`
    overhead_bytes what a first training step takes beside all tensors and scratch
    seconds        per unit of work
    """

    name: str
    device: str
    description: str
    precision: str
    backend: str
    scratch: Mapping[str, float]
    overhead_bytes: int
    seconds: Mapping[str, float]

    def time(self, work: Mapping[str, float]) -> float:
        """Seconds for amounts of work by unit."""
        return sum(amount * self.seconds[unit] for unit, amount in work.items())

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load_profile(name: str) -> Profile:
    """A profile of this package by name, or the file of one."""
    path = Path(name) if name.endswith(".json") else PROFILES / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.json")))
        raise ValueError(
            f"No profile {name!r}; there are {known}. Measure one on the device: nnunet-mamba estimate "
            f"--measure NAME.json --device cpu (or cuda), then give --device NAME.json."
        )
    return Profile(**json.loads(path.read_text()))
