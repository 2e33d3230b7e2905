"""nnunet-mamba doctor: checks of versions, backends, folders, trainers, device; each fault with its fix."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from nnunet_mamba.io.cpu import (
    PASSIVE_WAITING,
    count_free_cpus,
    count_usable_cpus,
    cpu_quota,
    is_waiting_passively_in_shell,
)
from nnunet_mamba.nnunet.commands import EXTERNAL
from nnunet_mamba.nnunet.register import SHIM_NAME, is_registered
from nnunet_mamba.nnunet.version import find_trainer_folder, find_version_problem, get_installed_version

OPTIONAL = {
    "triton": "scans on NVIDIA GPUs",
    "mamba-ssm": "its CUDA kernels",
    "causal-conv1d": "its CUDA kernels",
}
BACKENDS_FOR_EVERYONE = ("reference", "numba", "torch")  # their packages are requirements
FOLDERS = {
    "nnUNet_raw": "datasets as nnU-Net reads them",
    "nnUNet_preprocessed": "plans and preprocessed data",
    "nnUNet_results": "trained models",
}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE = "nnUNetTrainerMMUNet"
WORKERS = "nnUNet_n_proc_DA"  # nnU-Net's processes for augmentation, and its threads in planning
SET_TRAINERS = 'nnunet-mamba register   (or: export nnUNet_extTrainer="$(nnunet-mamba trainers-path)")'


def add(commands: Any) -> None:
    p = commands.add_parser("doctor")
    p.add_argument(
        "--gpu",
        action="store_true",
        help="instead: whether the scan's kernels compute what they should on each GPU, and how fast",
    )
    p.set_defaults(run=doctor)


def doctor(args: argparse.Namespace) -> int:
    print("checking; nnU-Net takes 10 to 20 s to load", file=sys.stderr, flush=True)
    findings = list(examine_gpus()) if args.gpu else examine()
    print(render(findings))
    return int(any(finding.fix for finding in findings))


@dataclass(frozen=True)
class Finding:
    """Fact about the installation; a fault if it has a `fix`."""

    topic: str
    what: str
    fix: str | None = None
    absent: bool = False  # something optional that is not there: no fault, nor worth an "ok"

    @property
    def mark(self) -> str:
        return "FAULT" if self.fix else "--" if self.absent else "ok"


def examine() -> list[Finding]:
    """Return everything that `nnunet-mamba doctor` prints, in its order."""
    return [*_versions(), *_backends(), *_folders(), *_trainers(), *_processors(), _device()]


def examine_gpus() -> Iterator[Finding]:
    """Yield what `nnunet-mamba doctor --gpu` prints: whether the scan's kernels are right on each GPU, and
    fast."""
    import torch

    from nnunet_mamba.ops import self_check
    from nnunet_mamba.ops.backends import backend_status

    state = backend_status("triton")
    if state != "ok":
        yield Finding("GPU", f"triton: {state}", "`nnunet-mamba doctor` looks at the rest")
        return
    for device in range(torch.cuda.device_count()):
        topic = f"GPU {device}: {self_check.describe_gpu(device)}"
        found = self_check.run_self_check(device, wide=True)
        faults = [*found["differ"], *found["fail"]]
        for fault in faults:
            yield Finding(topic, fault, "report this page; NNUNET_MAMBA_BACKEND=torch runs, slower")
        if not faults:
            cases = len(self_check.MANY)
            yield Finding(topic, f"{cases} scans and convolutions agree with float64, with all gradients")
        directions, batch, tokens, channels = self_check.TIMED
        size = f"{directions} directions, batch {batch}, {tokens} tokens, {channels} channels, 16 states, "
        size += "float32"
        for backend, times in found.get("milliseconds", {}).items():
            if isinstance(times, str):
                yield Finding(topic, f"{backend}: not timed, {times} ({size})", absent=True)
                continue
            what = f"{times[0]:.2f} ms forward, {times[1]:.2f} ms backward"
            yield Finding(topic, f"{backend}: {what} ({size})")


def render(findings: list[Finding]) -> str:
    """Return findings grouped by topic, one line each; faults have a second line with the fix."""
    lines: list[str] = []
    for i, finding in enumerate(findings):
        if i == 0 or finding.topic != findings[i - 1].topic:
            lines.append(finding.topic)
        lines.append(f"  {finding.mark:5s}  {finding.what}")
        if finding.fix:
            lines.append(f"         -> {finding.fix}")
    n_faults = sum(finding.fix is not None for finding in findings)
    return "\n".join([*lines, "", f"{n_faults} fault(s)" if n_faults else "Healthy."])


def _versions() -> Iterator[Finding]:
    yield Finding("Versions", f"python {platform.python_version()}")
    for package in ("nnunet_mamba", "torch", "numba"):
        yield _required(package)
    fault = find_version_problem()
    if fault:
        what, fix = fault.split("; run: ")
        yield Finding("Versions", what, fix)
    else:
        yield _required("nnunetv2")
    yield from _torchvision()
    for package, purpose in OPTIONAL.items():
        found = get_installed_version(package)
        what = f"{package} {found}" if found else f"{package} not installed (optional: {purpose})"
        yield Finding("Versions", what, absent=found is None)


def _torchvision() -> Iterator[Finding]:
    """Yield a fault if torchvision, which nnU-Net needs, is built for CUDA and torch is not: it fails to
    load."""
    torch, torchvision = (get_installed_version(package) or "" for package in ("torch", "torchvision"))
    for_cpus = [version.endswith("+cpu") for version in (torch, torchvision)]
    if sys.platform == "linux" and torchvision and for_cpus == [True, False]:
        what = f"torch {torch} is built without CUDA, torchvision {torchvision} with it, and cannot be loaded"
        fix = f"pip install --force-reinstall torch torchvision --index-url {CPU_INDEX}"
        yield Finding("Versions", what, fix)


def _required(package: str) -> Finding:
    found = get_installed_version(package)
    if found:
        return Finding("Versions", f"{package} {found}")
    source = str(Path(__file__).parents[2]) if package == "nnunet_mamba" else package
    return Finding("Versions", f"{package} is not installed", shlex.join(("pip", "install", source)))


def _backends() -> Iterator[Finding]:
    from nnunet_mamba import available_backends

    backends = available_backends()
    for name, state in backends.items():
        if name == "triton" and state == "ok":
            yield _kernels()
            continue
        needed = state != "ok" and name in BACKENDS_FOR_EVERYONE
        fix = f"pip install --force-reinstall {name}" if needed else None
        yield Finding("Scan backends", f"{name}: {state}", fix, absent=state != "ok")
    chosen = os.environ.get("NNUNET_MAMBA_BACKEND")
    if chosen and backends.get(chosen) != "ok":
        usable = ", ".join(name for name, state in backends.items() if state == "ok")
        what = f"NNUNET_MAMBA_BACKEND={chosen}: {backends.get(chosen, 'no such backend')}"
        yield Finding("Scan backends", what, f"unset NNUNET_MAMBA_BACKEND, or set it to one of {usable}")


def _kernels() -> Finding:
    """Return the result of an earlier self-check of the current GPU, if there was one."""
    import torch

    from nnunet_mamba.ops.self_check import read_cached_result

    kept = read_cached_result(torch.cuda.current_device()) if torch.cuda.is_available() else None
    if kept and kept["fault"]:
        what = f"triton: its kernels fail on this GPU ({kept['fault']})"
        return Finding("Scan backends", what, "nnunet-mamba doctor --gpu")
    return Finding("Scan backends", "triton: ok" if kept else "triton: ok, its kernels not checked yet")


def _folders() -> Iterator[Finding]:
    for variable, purpose in FOLDERS.items():
        value = os.environ.get(variable)
        if value is None:
            fix = f"export {variable}=FOLDER   (for {purpose})"
            yield Finding("nnU-Net's folders", f"{variable} is not set", fix)
        else:
            yield Finding("nnU-Net's folders", f"{variable}={value}", _missing_folder(variable, value))


def _missing_folder(variable: str, value: str) -> str | None:
    """Return the fix if `value` is not a folder; nnU-Net takes variables literally, `~` too."""
    if value.startswith("~"):
        return f'`~` is not expanded here: export {variable}="{Path(value).expanduser()}"'
    return (
        None
        if Path(value).is_dir()
        else f"the folder does not exist: mkdir -p '{value}', or correct {variable}"
    )


def _trainers() -> Iterator[Finding]:
    ways, dangerous = [], False
    if find_version_problem():
        yield Finding("Trainers", "not looked for: this nnU-Net is not supported", "see Versions")
        return
    if is_registered():
        ways.append(f"registered in {find_trainer_folder()}")
    for entry in filter(str.strip, os.environ.get(EXTERNAL, "").split(os.pathsep)):
        fix = _wrong_entry(entry)
        dangerous |= fix is not None and Path(entry).is_dir()
        if fix or not holds_our_trainers(Path(entry)):
            yield Finding("Trainers", f"nnUNet_extTrainer names {entry}", fix)
        else:
            ways.append(f"nnUNet_extTrainer names {entry}")
    yield from (Finding("Trainers", way) for way in ways)
    if not dangerous:  # nnU-Net's search imports every file that it meets, setup.py too
        yield _ask_nnunet(ways)


def holds_our_trainers(folder: Path) -> bool:
    """Return whether nnU-Net would find our trainers in `folder`."""
    return (folder / f"{SHIM_NAME}.py").is_file()


def _wrong_entry(entry: str) -> str | None:
    """Return the fix for an entry of nnUNet_extTrainer that cannot work; None for ours and other people's."""
    folder = Path(entry)
    right = 'export nnUNet_extTrainer="$(nnunet-mamba trainers-path)"'
    if entry.startswith("~"):
        return f"`~` is not expanded here: {right}"
    if not folder.is_dir():
        return f"the folder does not exist, and nnU-Net skips it silently: {right}"
    if (folder / "setup.py").exists() or (folder / "pyproject.toml").exists():
        return f"this is the root of a repository, whose every file nnU-Net would import: {right}"
    if folder.name == "nnunet_mamba" or (folder / "nnunet_mamba").is_dir():
        return f"this is the package or the folder above it, not the one with the trainers: {right}"
    return None


def _ask_nnunet(ways: list[str]) -> Finding:
    """Let nnU-Net itself look for one of our trainers."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        with redirect_stdout(StringIO()):  # the search reports every file that it inspects
            recursive_find_trainer_class_by_name(PROBE)
    except Exception as error:
        if ways:
            what = f"nnU-Net's search for {PROBE} fails: {type(error).__name__}: {error}"
            return Finding(
                "Trainers", what, "fix the import that fails, or take that folder out of nnUNet_extTrainer"
            )
        return Finding("Trainers", f"nnU-Net does not find {PROBE}", SET_TRAINERS)
    return Finding("Trainers", f"nnU-Net finds {PROBE}")


def _processors() -> Iterator[Finding]:
    n, quota = count_usable_cpus(), cpu_quota()
    limits = f", limited by this container to {quota:g}" if quota is not None else ""
    yield Finding(
        "Processors", f"{n} usable of {os.cpu_count()}{limits}, {count_free_cpus()} of them free now"
    )
    if not is_waiting_passively_in_shell():
        settings = " ".join(f"{name}={value}" for name, value in PASSIVE_WAITING.items())
        what = (
            "idle threads of OpenMP spin; where others use the CPU too, nnU-Net's commands are faster after"
        )
        yield Finding("Processors", f"{what}: export {settings}", absent=True)
    if os.environ.get(WORKERS) == "0":
        what = f"{WORKERS}=0: nnU-Net's planning fails with it, training does not"
        yield Finding("Processors", what, f"unset {WORKERS}, or set it for training only")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("Device", f"cuda: {torch.cuda.get_device_name(0)}, {memory_gib:.0f} GiB")
    if torch.backends.mps.is_available():
        return Finding("Device", "mps (pass `-device mps` to nnU-Net's commands)")
    return Finding("Device", "cpu (pass `-device cpu` to nnU-Net's commands)")
