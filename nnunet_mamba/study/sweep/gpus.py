"""The GPUs of this machine, and which of them a job gets where no scheduler chooses.

A slot is a file under a lock of the system (flock). The command inherits the descriptor, so that its GPU is
busy for as long as it lives, whatever becomes of its runner.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_mamba.io.locks import HAS_LOCKS, try_lock
from nnunet_mamba.nnunet.console import LogFn

GPUS = "NNUNET_MAMBA_GPUS"  # the GPUs that a sweep may use: 0,1
VISIBLE = "CUDA_VISIBLE_DEVICES"
ASK_EVERY_S = 5.0


@dataclass(frozen=True)
class GpuSlots:
    """`gpus` by their names in CUDA_VISIBLE_DEVICES; the command has to inherit the `descriptors`."""

    gpus: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        return {VISIBLE: ",".join(self.gpus)} if self.gpus else {}


def available_gpus() -> list[str]:
    """Return the numbers of NVIDIA's cards here, those of CUDA_VISIBLE_DEVICES where it is set."""
    if VISIBLE in os.environ:
        return [number for number in os.environ[VISIBLE].split(",") if number.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", errors="replace")
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def offered_gpus() -> tuple[str, ...]:
    """Return the GPUs that the sweep may choose from; none where a scheduler chooses, or nothing is set."""
    return tuple(name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip())


def slots_folder() -> Path:
    """Return the folder for all studies of a user on this host."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir(), f"nnunet_mamba_gpus_{user}")


@contextmanager
def gpu_slots(n: int, folder: Path, log: LogFn) -> Iterator[GpuSlots]:
    """Take `n` of the offered GPUs, all or none, and wait until so many are free."""
    offered = offered_gpus()
    if n == 0 or not offered:
        yield GpuSlots()
        return
    if n > len(offered):
        raise ValueError(f"The job asks for {n} GPUs, but {GPUS} offers {', '.join(offered)}; offer more.")
    if not HAS_LOCKS:
        if n < len(offered):
            raise ValueError(
                f"{GPUS} offers {', '.join(offered)}, and this system has no locks to share them out; "
                f"offer as many as each training takes: --gpus {n}."
            )
        yield GpuSlots(offered)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        slots = _free_slots(n, offered, folder, held)
        if slots is None:
            log(f"waiting for {n} of the GPUs {', '.join(offered)}")
        while slots is None:
            time.sleep(ASK_EVERY_S)
            slots = _free_slots(n, offered, folder, held)
        yield slots


def _free_slots(n: int, offered: Sequence[str], folder: Path, held: ExitStack) -> GpuSlots | None:
    taken: dict[str, int] = {}
    with ExitStack() as here:
        for gpu in offered:
            descriptor = os.open(folder / f"gpu_{socket.gethostname()}_{gpu}", os.O_CREAT | os.O_RDWR, 0o644)
            here.callback(os.close, descriptor)
            if len(taken) < n and try_lock(descriptor):
                taken[gpu] = descriptor
        if len(taken) < n:
            return None
        held.enter_context(here.pop_all())
    return GpuSlots(tuple(taken), tuple(taken.values()))
