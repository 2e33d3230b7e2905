"""Common mistakes on the command line: what is said, and after how long.

    python benchmarks/mistakes.py --record benchmarks/results/mistakes

writes <record>.json and <record>.md. Each command runs in a process of its own, in folders with one dataset
that is planned and not trained.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from records import heading, publish, surroundings

MISTAKES = (  # every one is refused; dataset 4 has plans of one configuration, 2d, and nothing is trained
    "trian",
    "register --foo",
    "trainers mmunett",
    "networks mmunett",
    "networks --plans 7",
    "estimate 4 --network mmunet",
    "estimate 4 --network mm_unet --configuration 3d_ful",
    "estimate 4 --network mm_unet --configuration 2d --device cuba",
    "plans aply cpu 4",
    "plans apply cpuu 4",
    "plans apply cpu 4 --network mmunet",
    "plans apply cpu 5",
    "plans check nowhere.json",
    "plans check 4 --network mmunet",
    "plans make 4 --network mmunet --vram-gb 8",
    "plans make 5 --network mm_unet --vram-gb 8",
    "plans split 99 --name 5fold",
    "convert acdd images",
    "convert acdc nowhere",
    "convert acdc images --split mamba_unett",
    "evaluate images images --protocol hones",
    "evaluate images images --metrics dcie",
    "evaluate images nowhere",
    "evaluate --results 7",
    "compare nowhere.csv",
    "report nowhere.csv --out page",
    "submit acdd images --images images --out a.zip",
    "inspect nowhere.pth images/case_0000.nii.gz",
    "import-checkpoint nowhere.pth --source vm_unet --out x.pth",
    "import-checkpoint images/case_0000.nii.gz --source vmunet --out x.pth",
    "predict -i images -o out -d 4 -c 3d_fullres -tr nnUNetTrainerMMUnet",
    "sweep nowhere.yaml",
    "quickstart --data nowhere",
    "quickstart --trainer nnUNetTrainerMMUnet",
    "quickstart --device cud",
)


def make_folders(top: Path) -> dict[str, str]:
    """Make the folders that the mistakes are about; returns nnU-Net's variables."""
    for name in ("raw", "preprocessed", "results"):
        (top / name / "Dataset004_Hippocampus").mkdir(parents=True)
    plans = '{"plans_name": "nnUNetPlans", "configurations": {"2d": {}}}'
    (top / "preprocessed" / "Dataset004_Hippocampus" / "nnUNetPlans.json").write_text(plans)
    (top / "images").mkdir()
    (top / "images" / "case_0000.nii.gz").touch()
    return {f"nnUNet_{name}": str(top / name) for name in ("raw", "preprocessed", "results")}


def measure(command: str, top: Path, variables: dict[str, str]) -> dict[str, object]:
    start = time.perf_counter()
    argv = [sys.executable, "-m", "nnunet_mamba", *command.split()]
    done = subprocess.run(argv, cwd=top, env={**os.environ, **variables}, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    said = done.stderr.strip().splitlines() or [""]
    message = next((line for line in said if line.startswith("nnunet-mamba")), said[-1])
    return {"command": command, "seconds": seconds, "exit": done.returncode, "message": message}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, help="write RECORD.json and RECORD.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        variables = make_folders(Path(top))
        rows = [measure(command, Path(top), variables) for command in MISTAKES]
        for row in rows:
            row["message"] = str(row["message"]).replace(top, "")
    record = {**surroundings("cpu"), "load_average": os.getloadavg()[0], "rows": rows}
    table = ["| `nnunet-mamba ...` | seconds | exit | message |", "|---|---|---|---|"]
    table += [f"| `{r['command']}` | {r['seconds']:.2f} | {r['exit']} | {r['message']} |" for r in rows]
    page = "\n".join([f"{heading(record)} Load average {record['load_average']:.1f}.", "", *table, ""])
    publish(record, page, args.record)


if __name__ == "__main__":
    main()
