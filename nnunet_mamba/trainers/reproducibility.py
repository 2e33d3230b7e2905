"""Seeds of a training: every random number is a function of NNUNET_MAMBA_SEED and of its use.

Each batch has a seed of its own, derived from its number; so have the network's first weights and each epoch.
The result does not depend on the number of processes that make the batches, nor on whether a run was
interrupted after an epoch. docs/reproducibility.md says what is not covered.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

WORKERS = "nnUNet_n_proc_DA"  # nnU-Net's variable
NETWORK, EPOCH, TRAINING, VALIDATION = range(4)  # uses of seeds


def derive_seed(seed: int, *path: int) -> int:
    """Return a seed of 32 bits for one of the many uses of `seed`, such as (TRAINING, rank, batch)."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the generators of Python, numpy and torch's CPU within the block, and restore them after it."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU as well
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def make_deterministic(device_type: str) -> None:
    """Prefer operations that always sum in the same order; on CUDA, torch warns where it has none."""
    torch.backends.cudnn.benchmark = False  # nnU-Net turns it on after it has constructed the trainer
    torch.backends.cudnn.deterministic = True
    if device_type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


class SeededLoader:
    """Iterator over the batches `first`, `first` + 1, ... of `loader`, batch k made from the seed (*seeds,
    k).

    batchgenerators takes batches from n workers in turn; each makes every n-th.
    """

    def __init__(self, loader: Any, seeds: tuple[int, ...], first: int, n_workers: int = 1):
        self.loader, self.seeds = loader, seeds
        self.number, self.n_workers = first, n_workers

    def set_thread_id(self, worker: int) -> None:
        """Set the number of the worker; batchgenerators calls this in the process of each."""
        torch.set_num_threads(1)
        self.number += worker

    def __iter__(self) -> "SeededLoader":
        return self

    def __next__(self) -> dict:
        with temporary_seed(derive_seed(*self.seeds, self.number)):
            batch = next(self.loader)
        self.number += self.n_workers
        return batch


def make_seeded_batches(
    loader: Any, seeds: tuple[int, ...], first: int, n_workers: int, *, pin_memory: bool
) -> SingleThreadedAugmenter | MultiThreadedAugmenter:
    """Return the batches of an nnU-Net loader from number `first` on, made by `n_workers` processes (0: by
    this one).

    nnU-Net takes batches in the order in which its processes finish them; here the order is fixed.
    """
    disable_benchmarks(loader.transforms)
    if n_workers == 0:
        return SingleThreadedAugmenter(SeededLoader(loader, seeds, first), None)
    batches = MultiThreadedAugmenter(
        SeededLoader(loader, seeds, first, n_workers),
        None,
        n_workers,
        num_cached_per_queue=1,
        pin_memory=pin_memory,
        wait_time=0.002,
    )
    batches.restart()  # starts the workers before the first batch is needed, as nnU-Net does
    return batches


def disable_benchmarks(transform: Any) -> None:
    """Make `transform` and all transforms within it use one algorithm for blurring, where nnU-Net measures
    which is faster."""
    if getattr(transform, "benchmark", False):
        transform.benchmark = False
    lists = (getattr(transform, name, ()) for name in ("transforms", "list_of_transforms"))
    for child in (getattr(transform, "transform", None), *chain.from_iterable(lists)):
        if child is not None:
            disable_benchmarks(child)


@contextmanager
def disable_workers() -> Iterator[None]:
    """Make nnU-Net produce batches in its own process within the block."""
    before = os.environ.get(WORKERS)
    os.environ[WORKERS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKERS]
        else:
            os.environ[WORKERS] = before
