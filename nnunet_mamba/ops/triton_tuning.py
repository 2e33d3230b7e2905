"""Into how many programs per multiprocessor a scan is cut: measured once per kind of call, and kept on disk.

The number is an argument of the kernels, so that trying one compiles little. It decides where sequences are
cut, and with it the rounding of sums: where torch is told to be deterministic, nothing is measured, and
DEFAULT is taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch

CANDIDATES = (4, 8, 16)
DEFAULT = 8
CACHE = "NNUNET_MAMBA_CACHE"  # environment: the folder
_chosen: dict[str, int] = {}


def programs_per_processor(key: str, seconds: Callable[[int], float]) -> int:
    """The candidate of the fewest `seconds`; by `key` from the last time, in this process or another."""
    if torch.are_deterministic_algorithms_enabled():
        return DEFAULT
    if key not in _chosen:
        _chosen.update({**_read(), **_chosen})  # what this process has chosen stays
    if key not in _chosen:
        _chosen[key] = min(CANDIDATES, key=seconds)
        _write()
    return _chosen[key]


def known(key: str) -> int:
    """The choice so far, without measuring: while a CUDA graph is captured nothing can be."""
    return _chosen.get(key, DEFAULT)


def seconds_on_gpu(run: Callable[[], object], repeats: int = 3) -> float:
    """The shortest of a few runs; the first, which compiles, does not count."""
    times = []
    for _ in range(repeats + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return min(times[1:])


def cache_file() -> Path:
    folder = os.environ.get(CACHE)
    # not Path.expanduser, which raises for a user without a home
    return Path(os.path.expanduser(folder or "~/.cache/nnunet_mamba")) / "triton_tuning.json"  # noqa: PTH111


def _read() -> dict[str, int]:
    """What is kept; nothing if it cannot be read, or names a number that is no candidate."""
    try:
        kept = json.loads(cache_file().read_text())
        return {key: number for key, number in kept.items() if number in CANDIDATES}
    except (OSError, ValueError, AttributeError):
        return {}


def _write() -> None:
    """Beside what others kept meanwhile; a folder that cannot be written only costs the next process time."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as file:
            json.dump({**_read(), **_chosen}, file, indent=1, sort_keys=True)
        Path(file.name).replace(path)
    except OSError:
        pass
