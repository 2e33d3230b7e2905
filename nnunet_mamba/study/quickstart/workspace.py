"""Folder of a quickstart: its settings, and which of its stages are done.

OUT/settings.json   the settings; others in the same folder are refused
OUT/stages.json     seconds spent per stage, and whether it is finished; rewritten as a whole, never in part
OUT/logs/           output of the commands
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mamba.io.atomic import write_json

PHANTOM = "phantom"  # the name of the embedded data set among the settings
PLANS = "nnUNetPlans"  # the name of the plans that nnU-Net makes by default
FOLD = 0
DEMO_TRAINER = "nnUNetTrainerMMUNet_demo"


@dataclass(frozen=True)
class Settings:
    """Settings that the user chose; without `data`, phantoms are drawn."""

    data: Path | None
    device: str  # cpu, cuda or mps; the only setting that may change between runs
    trainer: str
    configuration: str
    n_unseen: int
    seed: int

    def request(self) -> dict[str, Any]:
        """Return the settings that must stay the same in one folder, by option."""
        return {
            "--data": PHANTOM if self.data is None else str(Path(self.data).resolve()),
            "--trainer": self.trainer,
            "--configuration": self.configuration,
            "--cases": self.n_unseen,
            "--seed": self.seed,
        }


@dataclass(frozen=True)
class Workspace:
    """The folder given by --out, absolute."""

    out: Path

    @property
    def raw(self) -> Path:
        return self.out / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        return self.out / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        return self.out / "nnUNet_results"

    @property
    def predictions(self) -> Path:
        return self.out / "predictions"

    def log_file(self, stage: str) -> Path:
        return self.out / "logs" / f"{stage}.log"

    def dataset(self) -> str | None:
        """Return Dataset###_Name, None before it is written."""
        return next((folder.name for folder in sorted(self.raw.glob("Dataset*"))), None)

    def fold(self, dataset: str, settings: Settings) -> Path:
        """Return the folder of the training's checkpoints."""
        model = f"{settings.trainer}__{PLANS}__{settings.configuration}"
        return self.results / dataset / model / f"fold_{FOLD}"

    @property
    def has_settings(self) -> bool:
        return (self.out / "settings.json").is_file()

    def store_settings(self, settings: Settings) -> None:
        """Write the settings; ValueError if the folder has others, or files that are not a quickstart's."""
        file = self.out / "settings.json"
        if not self.has_settings:
            if self.out.is_dir() and any(child.name != "lock" for child in self.out.iterdir()):
                raise ValueError(f"{self.out} is not empty and holds no quickstart; choose another --out.")
            write_json(file, settings.request())
            return
        earlier = json.loads(file.read_text())
        for option, value in settings.request().items():
            if earlier.get(option) != value:
                raise ValueError(
                    f"{self.out} holds a quickstart with {option} {earlier.get(option)}, not {value}. "
                    f"Repeat that one to resume it, choose another --out, or remove the folder."
                )

    def stages(self) -> dict[str, dict[str, Any]]:
        """Return for each stage by name {"finished": bool, "seconds": float, "commands": [str]}."""
        file = self.out / "stages.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def record_stage(self, stage: str, *, finished: bool, seconds: float, commands: list[str]) -> None:
        """Add `seconds` to the time of this stage's earlier attempts, and write whether it is finished."""
        stages = self.stages()
        before = stages.get(stage, {}).get("seconds", 0.0)
        stages[stage] = {"finished": finished, "seconds": before + seconds, "commands": commands}
        write_json(self.out / "stages.json", stages)

    def remove_stages(self, names: list[str]) -> None:
        """Remove stages whose input changes, so that they run again."""
        write_json(self.out / "stages.json", {k: v for k, v in self.stages().items() if k not in names})

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Keep a second run out; yield the lock for children to inherit, so that it outlives a kill."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            self.out.mkdir(parents=True, exist_ok=True)
            yield None
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"Another quickstart, or a command of it, is at work in {self.out}; wait, or stop it."
                ) from error
            yield lock.fileno()
