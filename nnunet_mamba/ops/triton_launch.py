"""Compiled Triton kernels, and calls of them that cost the CPU little.

Triton's own binder inspects every argument of every call, which takes as long as ten launches. Our kernels
are compiled for no particular value of an integer and alignment of a pointer (`run_time`), so the types of
the arguments are inspected once.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

import torch
import triton

from nnunet_mamba.io.cpu import count_usable_cpus
from nnunet_mamba.ops.backends import is_interpreting

REGISTERS = 65536  # of a multiprocessor, of all cards that Triton knows
MOST_PROGRAMS = 16  # of one warp, at once on a multiprocessor of any of them
PATIENCE = 2.0  # seconds of compilation before a warning
_logger = logging.getLogger("nnunet_mamba")
_announced = threading.Event()


def run_time(function: Callable[..., None]) -> Any:
    """Decorate a kernel that is compiled once for all values of its integers and all alignments."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.annotation != "tl.constexpr"]
    return triton.jit(do_not_specialize=names, do_not_specialize_on_alignment=names)(function)


class Kernel:
    """Kernel for pointers of certain types and for certain constants.

    Args:
        function: decorated by `run_time`; parameters named `*_ptr`, then integers, then constants.
        types: dtypes of pointers, by name without `_ptr`; None for an absent one. Names that are not
        parameters
            are ignored, here and in the next two.
        integers: integers by name; it only matters whether they need 64 bits.
        constants: constants by name.
        options: Triton's options, such as num_warps.
    """

    def __init__(
        self,
        function: Any,
        types: Mapping[str, torch.dtype | None],
        integers: Mapping[str, int],
        constants: Mapping[str, Any],
        **options: Any,
    ):
        names: list[str] = function.arg_names
        self.names = [name.removesuffix("_ptr") for name in names if name not in constants]
        self.constants = [constants[name] for name in names if name in constants]
        self._examples = [types[name] if name in types else integers[name] for name in self.names]
        self._function, self._options = function, options
        self._runner = function if is_interpreting() else None

    @property
    def is_compiled(self) -> bool:
        """Return whether the kernel can be launched."""
        return self._runner is not None

    def compile(self, device: torch.device) -> None:
        """Compile the kernel, or read it from Triton's cache on disk."""
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # threads have their own
            arguments = (*self._examples, *self.constants)
            self._runner = self._function.warmup(*arguments, grid=(1, 1, 1), **self._options)

    def __call__(self, grid: tuple[int, int, int], values: Mapping[str, Any]) -> None:
        """Launch the kernel with tensors and integers by name; other names are ignored."""
        self._runner[grid](*[values[name] for name in self.names], *self.constants)  # type: ignore[index]

    def at_once(self) -> int:
        """Return the number of one-warp programs that a multiprocessor's registers have room for."""
        if is_interpreting():
            return MOST_PROGRAMS
        assert self._runner is not None
        self._runner._init_handles()  # loads the machine code; its registers are known then
        of_a_warp = 32 * 8 * -(-self._runner.n_regs // 8)
        return min(MOST_PROGRAMS, REGISTERS // of_a_warp)


def compile_all(kernels: Iterable[Kernel], device: torch.device) -> None:
    """Compile kernels in threads; warn once per process if that takes long."""
    missing = [kernel for kernel in kernels if not kernel.is_compiled]
    if not missing:
        return
    with ThreadPoolExecutor(min(len(missing), count_usable_cpus())) as pool:
        futures = [pool.submit(kernel.compile, device) for kernel in missing]
        _, late = wait(futures, timeout=PATIENCE)
        if late and not _announced.is_set():
            _announced.set()
            _logger.warning("Compiling the GPU kernels on first use, some seconds each; Triton caches them.")
    for kernel, future in zip(missing, futures, strict=True):
        # Python 3.11's parser keeps its depth for all threads, and now and then takes another's for its own
        if isinstance(future.exception(), SystemError | RecursionError):
            kernel.compile(device)
        else:
            future.result()
