"""CUDA driver that does nothing: Triton compiles, binds arguments and launches as on a GPU; nothing runs.

For counting kernels and for timing what a launch costs the CPU, on machines without a GPU. Triton builds its
real launcher against a small library of stubs, for which a C compiler is needed. Outputs are not computed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

STUBS = """
#include <stddef.h>
#include <stdint.h>
#define STUB(name, arguments, effect) int name arguments { effect; return 0; }
STUB(cuInit, (unsigned flags), )
STUB(cuDriverGetVersion, (int *version), *version = 13000)
STUB(cuGetErrorString, (int error, const char **text), *text = "none")
STUB(cuCtxGetCurrent, (void **context), *context = (void *)1)
STUB(cuCtxSetCurrent, (void *context), )
STUB(cuCtxGetDevice, (int *device), *device = 0)
STUB(cuCtxGetLimit, (size_t *value, int limit), *value = 0)
STUB(cuCtxSetLimit, (int limit, size_t value), )
STUB(cuDeviceGet, (int *device, int ordinal), *device = 0)
STUB(cuDeviceGetCount, (int *count), *count = 1)
STUB(cuDeviceGetAttribute, (int *value, int attribute, int device), *value = 232448)
STUB(cuDevicePrimaryCtxRetain, (void **context, int device), *context = (void *)1)
STUB(cuModuleLoadData, (void **module, const void *image), *module = (void *)1)
STUB(cuModuleGetFunction, (void **function, void *module, const char *name), *function = (void *)1)
STUB(cuModuleUnload, (void *module), )
STUB(cuFuncGetAttribute, (int *value, int attribute, void *function),
     *value = attribute == 0 ? 1024 : attribute == 4 ? 168 : 0) /* threads of a block, registers */
STUB(cuFuncSetAttribute, (void *function, int attribute, int value), )
STUB(cuFuncSetCacheConfig, (void *function, int config), )
STUB(cuLaunchKernelEx, (const void *config, void *function, void **arguments, void **extra), )
STUB(cuOccupancyMaxActiveClusters, (int *clusters, void *function, const void *config), *clusters = 1)
STUB(cuPointerGetAttribute, (void *data, int attribute, uint64_t pointer), *(uint64_t *)data = pointer)
STUB(cuPointerGetAttributes, (unsigned count, int *attributes, void **data, uint64_t pointer), )
STUB(cuTensorMapEncodeTiled, (void), )
STUB(cuTensorMapEncodeIm2col, (void), )
"""


def install(folder: Path, capability: int = 90) -> Any:
    """Make the stub Triton's driver for the rest of this process and return it; build it in `folder`.

    `capability` is an attribute of the driver and may be changed. Call this before Triton's first use. Raises
    RuntimeError if there is no C compiler.
    """
    (folder / "stubs.c").write_text(STUBS)
    library = folder / "libcuda.so.1"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    command += ["-o", str(library), str(folder / "stubs.c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"the stubs need a C compiler: {error}") from error
    library.with_suffix("").symlink_to(library)  # for linkers
    torch.cuda.is_available()  # torch looks for CUDA now, and does not find these stubs later
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "cache")

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    class StubDriver(CudaDriver):
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", self.capability, 32)

    driver = StubDriver()
    driver.capability = capability
    driver.get_current_device = lambda: 0
    driver.get_current_stream = lambda device: 0
    driver.set_current_device = lambda device: None
    triton.runtime.driver.set_active(driver)
    return driver
