"""Time from `pip install` to the first prediction: fresh environment, quickstart, a shared model.

    python benchmarks/first_prediction.py --record benchmarks/results/first_prediction
    python benchmarks/first_prediction.py --data Task04_Hippocampus --record ...

The wheel is built from the last commit. Its environment and all folders are temporary, so numba compiles
everything; what pip downloads may come from its cache. The shared model is an export of the quickstart's, and
predicts with nothing compiled at first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from records import heading, publish, surroundings

CHECKOUT = Path(__file__).parents[1]
SCORES = ("mean_foreground_dice", "mean_foreground_hd95_mm")


def build_wheel(folder: Path) -> Path:
    """Build the last commit, in `folder`."""
    archive = ["git", "-C", str(CHECKOUT), "archive", "--output", str(folder / "sources.tar"), "HEAD"]
    subprocess.run(archive, check=True)
    shutil.unpack_archive(folder / "sources.tar", folder / "sources")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(folder / "sources")]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


class Environment:
    """A fresh environment in a folder, whose commands are timed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        foreign = ("nnUNet", "PYTHON")
        self.variables = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)

    def run(self, program: str, *words: object, **variables: object) -> float:
        """Run a program of the environment; return its seconds."""
        command = [str(self.folder / "venv" / "bin" / program), *map(str, words)]
        environment = self.variables | {name: str(value) for name, value in variables.items()}
        print("$", program, *words, flush=True)
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=self.folder, env=environment)
        return time.perf_counter() - start

    def count_bytes(self) -> int:
        return sum(file.lstat().st_size for file in (self.folder / "venv").rglob("*") if file.is_file())


def measure(data: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = build_wheel(folder)
        new = Environment(folder)
        record: dict[str, Any] = {
            "wheel_bytes": wheel.stat().st_size,
            "install_s": new.run("pip", "install", "--quiet", wheel),
            "environment_bytes": new.count_bytes(),
        }
        words = ["--data", data.resolve()] if data else []
        record["quickstart_s"] = new.run("nnunet-mamba", "quickstart", "--device", "cpu", *words)
        results = json.loads((folder / "quickstart" / "results.json").read_text(encoding="utf-8"))
        record |= {name: results[name] for name in SCORES}
        return record | measure_shared_model(new, folder / "quickstart")


def measure_shared_model(new: Environment, quickstart: Path) -> dict[str, float]:
    """Return seconds of an import, of the first prediction of one image, and of another."""
    (trained,) = quickstart.glob("nnUNet_results/Dataset*/nnUNetTrainer*")
    new.run("nnunet-mamba", "export-model", trained, "shared")
    image = min(quickstart.glob("nnUNet_raw/Dataset*/imagesTs/*"))
    for name in ("one", "results"):
        (new.folder / name).mkdir()
    shutil.copy2(image, new.folder / "one")
    fresh: dict[str, Any] = {"nnUNet_results": "results", "NUMBA_CACHE_DIR": new.folder / "numba"}
    seconds = {"import_s": new.run("nnunet-mamba", "import-model", "shared", **fresh)}
    (model,) = (new.folder / "results").glob("*/*")
    predict = ("nnunet-mamba", "predict", "-i", "one", "-m", model, "-f", "0", "-device", "cpu")
    for name in ("first", "second"):
        seconds[f"{name}_prediction_s"] = new.run(*predict, "-o", f"predicted_{name}", **fresh)
    return seconds


def render(record: dict[str, Any]) -> str:
    dice, hd95 = (record[name] for name in SCORES)
    rows = {
        "wheel": f"{record['wheel_bytes'] / 1e6:.2f} MB",
        "`pip install` of the wheel in a fresh environment": f"{record['install_s']:.0f} s",
        "the environment": f"{record['environment_bytes'] / 1e9:.1f} GB",
        "`nnunet-mamba quickstart`, from images to a trained network, its predictions and the page": (
            f"{record['quickstart_s']:.0f} s; Dice {dice:.3f}, HD95 {hd95:.1f} mm"
        ),
        "a shared model: `import-model`": f"{record['import_s']:.0f} s",
        "its first prediction, of one image": f"{record['first_prediction_s']:.0f} s",
        "its second": f"{record['second_prediction_s']:.0f} s",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    total = record["install_s"] + record["import_s"] + record["first_prediction_s"]
    return (
        f"{heading(record)}\n\n| | |\n|---|---|\n{table}\n\n"
        f"From `pip install` to the first prediction of a shared model: {total:.0f} s.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="as for the quickstart; default: generated volumes")
    parser.add_argument("--record", type=Path, help="write PATH.json and PATH.md")
    args = parser.parse_args()
    record = surroundings("cpu") | measure(args.data)
    publish(record, render(record), args.record)


if __name__ == "__main__":
    main()
