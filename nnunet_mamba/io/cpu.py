"""Processors: their name, how many this process may use, how many are free, how idle OpenMP threads wait;
pages of their memory.

torch is not imported: how its threads wait is settled when it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# OpenMP's threads sleep between two parallel regions. By default they spin, which on shared processors takes
# the time of the thread that they wait for (benchmarks/threads.py).
PASSIVE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's variable
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
PROBE_S = 0.25
BLOCK = bytes(1 << 23)  # hashed in some 10 ms, during which Python's lock is free
_set_here: set[str] = set()  # variables that `wait_passively` has set


def wait_passively() -> None:
    """Set OpenMP's threads to sleep when idle, in this process if torch is not loaded yet, and in its
    children. Variables that are set keep their values."""
    _set_here.update(name for name in PASSIVE_WAITING if name not in os.environ)
    os.environ.update(get_passive_wait_variables())


def get_passive_wait_variables() -> dict[str, str]:
    """Return the environment variables that make idle OpenMP threads sleep, with the user's values where
    set."""
    return {name: os.environ.get(name, value) for name, value in PASSIVE_WAITING.items()}


def allocate_on_huge_pages() -> None:
    """Let torch, if it is not loaded yet, and that of children, ask Linux for huge pages behind large tensors
    on the CPU. Otherwise a new tensor costs a page fault every 4 KiB, a tenth of a prediction's time."""
    os.environ.setdefault(HUGE_PAGES, "1")


def count_usable_cpus() -> int:
    """Count the processors that the system lets this process use: its affinity and its container's quota."""
    quota = cpu_quota()
    n = len(_affinity())
    return n if quota is None else max(1, min(n, round(quota)))


def count_physical_cores() -> int:
    """Count the cores among the usable processors; two hardware threads of one core count once, on Linux."""
    try:
        cores = len({Path(SIBLINGS.format(cpu)).read_text(encoding="utf-8") for cpu in _affinity()})
    except OSError:
        cores = len(_affinity())
    return min(cores, count_usable_cpus())


def count_free_cpus() -> int:
    """Number of usable processors that nobody else is using now, at least 1.

    Measured in a quarter of a second: as many threads as there are processors compute, and of n processors
    that b others use too, each thread gets n / (n + b) of its time.
    """
    n = count_usable_cpus()
    with ThreadPoolExecutor(n) as pool:
        share = sum(pool.map(_share, [time.monotonic() + PROBE_S] * n)) / n
    return max(1, min(n, round(n * (2 - 1 / max(share, 1e-9)))))


def choose_n_threads(*, steady: bool = False) -> int:
    """Choose the number of threads for computing on the CPU: OMP_NUM_THREADS, else one per usable core.

    Where idle threads spin, only free cores count, unless the number must not depend on the load (`steady`).
    """
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told.isdecimal() and int(told):
        return int(told)
    return (
        count_physical_cores()
        if steady or is_waiting_passively()
        else min(count_physical_cores(), count_free_cpus())
    )


def is_waiting_passively() -> bool:
    """Return whether idle threads sleep, according to OMP_WAIT_POLICY."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


def is_waiting_passively_in_shell() -> bool:
    """Return whether idle threads also sleep in other programs that the user starts."""
    return is_waiting_passively() and "OMP_WAIT_POLICY" not in _set_here


def read_cpu_name() -> str:
    """Return the CPU's model name; "" if the system does not tell it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _share(end: float) -> float:
    """Return the part of the time until `end` that this thread was running."""
    start, used = time.monotonic(), time.thread_time()
    while time.monotonic() < end:
        hashlib.sha256(BLOCK)
    return (time.thread_time() - used) / max(time.monotonic() - start, 1e-9)


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that this process's control groups (Linux) grant; None without a limit.

    Of nested groups the smallest quota holds. Both versions of control groups are read; their files are under
    `root`.
    """
    quotas = [quota for folder in _groups(root) for quota in (_quota_v2(folder), _quota_v1(folder)) if quota]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups, and those above; in a container they seem to be the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (mounts / controllers, mounts / "cpu") if controllers else (mounts, mounts / "unified"):
            folder = mount / path.lstrip("/")
            while folder != mount.parent:
                yield folder
                folder = folder.parent


def _quota_v2(folder: Path) -> float | None:
    """Quota in cpu.max: "200000 100000" is two processors, "max 100000" no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    """Quota in cpu.cfs_quota_us and cpu.cfs_period_us; -1 is no limit."""
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
