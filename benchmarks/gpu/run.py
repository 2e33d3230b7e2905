"""All measurements on an NVIDIA GPU, the most important first, by one command within a time limit.

    python benchmarks/gpu/run.py                        all stages, 480 seconds
    python benchmarks/gpu/run.py correct scans          some of them
    python benchmarks/gpu/run.py --dry                  their commands on the CPU, on the smallest sizes

    check      nnunet-mamba doctor --gpu: the self-check, and a scan beside mamba_ssm's
    correct    the kernels' tests: each output and gradient against float64, memory poisoned with NaN
    kernels    breakdown.py: time per call alone and queued, and of the GPU by kernel, beside mamba_ssm's
    scans      benchmarks/scan.py: one to four directions, half and single precision, peak memory
    networks   benchmarks/networks.py: training steps and peak memory on the published plan, beside nnU-Net
    train      nnUNetv2_train: 3 epochs of 50 steps with float16's scaler; needs a preprocessed Dataset004
    predict    benchmarks/predict.py: the sliding window, nnU-Net's and ours
    counters   Nsight Compute on the four long kernels, where it is installed
    memcheck   compute-sanitizer on small scans, where it is installed

Each stage has a time of its own at most; one that fails or is late does not stop the others. After each,
OUT/results.tar.gz holds all there is, at any time whole. Exit code 1: a stage failed or had no time left.

Where there is a folder .gpu in the working directory, as for a machine without a network, its wheels are
installed beside the environment's packages, for this run alone, and its data and stubs are used.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HALF_THE_CORES = str(max(1, (os.cpu_count() or 2) // 2))
TAIL = 30  # lines of a stage's output that are printed; all are kept
LEAST = 5  # seconds for which a stage is still begun


@dataclass(frozen=True)
class Stage:
    """Command of a stage. OUT is the folder of results; RIVALS is `rivals` where mamba_ssm can be used, else
    nothing. A command that does not begin with a program's name is python's."""

    name: str
    seconds: int  # at most
    command: str
    dry: str = ""  # the same on a CPU, if there is such a thing
    rivals: str = ""
    needs: str = ""  # a program; or "data", a preprocessed Dataset004


TESTS = "tests/ops/test_triton.py tests/ops/test_triton_linear_attention.py"
PYTEST = f"-m pytest -m gpu {TESTS} -p no:cacheprovider --tb=short -rfE"
TRAIN = "-m nnunetv2.run.run_training 4 3d_fullres 0 -tr nnUNetTrainerMMUNet_short"
ONE_SCAN = "benchmarks/gpu/one_scan.py"
STAGES = (
    Stage("check", 120, "-m nnunet_mamba doctor --gpu"),
    Stage("correct", 130, f"{PYTEST} -n {HALF_THE_CORES}", dry=f"{PYTEST} -n 0 --collect-only"),
    Stage(
        "kernels",
        110,
        "benchmarks/gpu/breakdown.py OUT/kernels.json",
        dry="benchmarks/gpu/breakdown.py OUT/kernels.json --dry",
    ),
    Stage(
        "scans",
        80,
        "benchmarks/scan.py --device cuda --rounds 3 --directions 1 2 4 --backends triton RIVALS "
        "--record OUT/scan",
        dry="benchmarks/scan.py --rounds 1 --sizes S3 --backends numba --record OUT/scan",
        rivals="mamba_ssm",
    ),
    Stage(
        "networks",
        140,
        "benchmarks/networks.py mm_unet mamba_multi RIVALS umamba_bot umamba_enc resenc_m swin_unetr "
        "--device cuda --steps 10 --threads 8 --record OUT/networks",
        dry="benchmarks/networks.py nnunet --plan tiny --steps 1 --record OUT/networks",
        rivals="mm_unet@mamba_ssm mamba_multi@mamba_ssm",
    ),
    Stage("train", 75, TRAIN, dry=f"{TRAIN} -device cpu", needs="data"),
    Stage(
        "predict",
        60,
        "benchmarks/predict.py umamba_bot --device cuda --plans '3D abdomen' --turns 1 --threads 8 "
        "--record OUT/predict",
        dry="benchmarks/predict.py umamba_bot --plans '3D tiny' --turns 1 --record OUT/predict",
    ),
    Stage(
        "counters",
        40,
        "ncu --clock-control none --set basic --launch-count 6 --kernel-name "
        f"'regex:^(forward|backward|segment_ends|segment_gradients)$' {sys.executable} {ONE_SCAN}",
        needs="ncu",
    ),
    Stage(
        "memcheck",
        40,
        f"compute-sanitizer --tool memcheck --error-exitcode 1 {sys.executable} {ONE_SCAN} small",
        needs="compute-sanitizer",
    ),
)


class Run:
    """Run of the stages, until `limit` seconds from now; results in `out` are packed after each stage."""

    def __init__(self, out: Path, limit: float, dry: bool):
        self.out, self.dry, self.end = out.resolve(), dry, time.monotonic() + limit
        self.work = Path(tempfile.mkdtemp(prefix="gpu_run_"))
        self.results = self.work / "results"
        self.results.mkdir()
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = self._environment()
        self.failed: list[str] = []

    def _environment(self) -> dict[str, str]:
        """Return the stages' environment: .gpu's packages first, nothing kept in the user's folders."""
        paths, brought = [str(ROOT)], Path(".gpu").resolve()
        if (brought / "wheels").is_dir():
            site = self.work / "site"
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
            wheels = map(str, (brought / "wheels").glob("*.whl"))
            subprocess.run([*pip, "--target", str(site), *wheels], check=True)
            shutil.copytree(brought / "stubs", site, dirs_exist_ok=True)
            paths.insert(0, str(site))
        own = {
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "4",
            "TRITON_CACHE_DIR": str(self.work / "triton"),
            "NNUNET_MAMBA_CACHE": str(self.work / "cache"),
            "nnUNet_extTrainer": str(ROOT / "benchmarks/gpu/trainers"),
            "nnUNet_results": str(self.work / "nnunet_results"),
            "nnUNet_compile": "f",
            "GPU_RUN_STEPS": "2" if self.dry else "50",
            "nnUNet_n_proc_DA": "0" if self.dry else "12",
            "nnUNet_def_n_proc": "4",
        }
        if (brought / "data").is_dir():
            shutil.copytree(brought / "data", self.work / "data")
            own |= {f"nnUNet_{part}": str(self.work / "data" / part) for part in ("raw", "preprocessed")}
        Path(own["nnUNet_results"]).mkdir()
        return {**os.environ, **own}

    def lacks(self, needed: str) -> str:
        """Return what a stage `needs` and is missing, or nothing."""
        if needed != "data":
            return "" if not needed or shutil.which(needed) else f"{needed} is not installed"
        folder = Path(self.environment.get("nnUNet_preprocessed", "nowhere"))
        found = folder.is_dir() and any(folder.glob("Dataset004_*"))
        return "" if found else "there is no preprocessed Dataset004 (.gpu/data, or nnUNet_preprocessed)"

    def stage(self, stage: Stage) -> None:
        words = shlex.split(stage.dry if self.dry else stage.command)
        missing = self.lacks(stage.needs)
        if not words or missing:
            self.say(f"== {stage.name}: left out, {missing or 'there is nothing to try without a GPU'}")
            return
        seconds = min(stage.seconds if not self.dry else 600, self.end - time.monotonic())
        if seconds < LEAST:
            self.say(f"== {stage.name}: LEFT OUT, {max(0, seconds):.0f} s are left")
            self.failed.append(stage.name)
            return
        rivals = stage.rivals.split() if stage.rivals and self.rival_is_here else []
        command = [part for word in words for part in (rivals if word == "RIVALS" else [word])]
        command = [word.replace("OUT/", f"{self.results}/") for word in command]
        program = shutil.which(command[0]) if stage.needs not in ("", "data") else None
        command = command if program else [sys.executable, *command]
        self.say(f"== {stage.name} (at most {seconds:.0f} s): {' '.join(command)}")
        start, text = time.monotonic(), self.results / f"{stage.name}.txt"
        # memory that torch keeps for itself would hide what reaches beyond a tensor
        more = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if stage.name == "memcheck" else {}
        code = run_for(command, seconds, text, self.environment | more)
        self.say("\n".join(text.read_text(errors="replace").splitlines()[-TAIL:]))
        self.say(f"== {stage.name}: exit code {code} after {time.monotonic() - start:.0f} s")
        if code:
            self.failed.append(stage.name)

    @cached_property
    def rival_is_here(self) -> bool:
        """Return whether mamba_ssm's scan can be used; record a failure if it was brought and cannot be."""
        look = [sys.executable, "-c", "import torch, selective_scan_cuda"]
        done = subprocess.run(look, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode and any(Path(".gpu/wheels").glob("mamba_ssm-*")):
            self.say(f"== mamba_ssm was brought, and does not load: {done.stderr[-300:]}")
            self.failed.append("mamba_ssm")
        return done.returncode == 0

    def say(self, text: str) -> None:
        print(text, flush=True)
        with (self.results / "log.txt").open("a") as log:
            log.write(text + "\n")

    def pack(self) -> None:
        """Pack the results, with what nnU-Net wrote of the training."""
        for file in Path(self.environment["nnUNet_results"]).glob("*/*/fold_0/*"):
            if file.name == "progress.png" or file.name.startswith("training_log"):
                shutil.copy(file, self.results)
        new = self.out / "results.tar.gz.new"
        with tarfile.open(new, "w:gz") as archive:
            archive.add(self.results, "results")
        new.replace(self.out / "results.tar.gz")


def run_for(command: Sequence[str], seconds: float, output: Path, environment: dict[str, str]) -> int:
    """Run a command and return its exit code; 124 if it and all that it started had to be killed."""
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--limit", type=float, default=480, help="seconds of all stages together")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_results")))
    parser.add_argument("--dry", action="store_true", help="on the CPU, on the smallest sizes")
    args = parser.parse_args()
    unknown = sorted(set(args.stages) - set(names))
    if unknown:
        parser.error(f"unknown stage {', '.join(unknown)}; choose from {', '.join(names)}")
    run = Run(args.out, args.limit, args.dry)
    for stage in STAGES:
        if not args.stages or stage.name in args.stages:
            run.stage(stage)
            run.pack()
    run.say(f"== failed or left out for time: {', '.join(run.failed) or 'none'}")
    run.pack()
    shutil.rmtree(run.work)
    return int(bool(run.failed))


if __name__ == "__main__":
    sys.exit(main())
