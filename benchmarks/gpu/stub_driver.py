"""A CUDA driver that does nothing: Triton compiles, binds arguments and launches as on a GPU, and nothing runs.

For counting kernels and for timing what a launch costs the CPU, on machines without a GPU. Triton builds its
real launcher against a small library of stubs, for which a C compiler is needed. Outputs are not computed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

STUBS = """
#include <stdint.h>
#include <stddef.h>
typedef int Result;
Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuGetErrorString(Result error, const char **text) { *text = "none"; return 0; }
Result cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
Result cuCtxSetCurrent(void *context) { return 0; }
Result cuCtxGetDevice(int *device) { *device = 0; return 0; }
Result cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
Result cuCtxSetLimit(int limit, size_t value) { return 0; }
Result cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 232448; return 0; }
Result cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
Result cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
Result cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)1; return 0; }
Result cuModuleUnload(void *module) { return 0; }
Result cuFuncGetAttribute(int *value, int attribute, void *function)
{ *value = attribute == 0 ? 1024 : attribute == 4 ? 168 : 0; return 0; }
Result cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
Result cuFuncSetCacheConfig(void *function, int config) { return 0; }
Result cuLaunchKernelEx(const void *config, void *function, void **arguments, void **extra) { return 0; }
Result cuOccupancyMaxActiveClusters(int *clusters, void *function, const void *config) { *clusters = 1; return 0; }
Result cuPointerGetAttribute(void *data, int attribute, uint64_t pointer)
{ *(uint64_t *)data = pointer; return 0; }
Result cuPointerGetAttributes(unsigned count, int *attributes, void **data, uint64_t pointer) { return 0; }
Result cuTensorMapEncodeTiled() { return 0; }
Result cuTensorMapEncodeIm2col() { return 0; }
"""


def install(folder: Path, capability: int = 90) -> None:
    """Make it Triton's driver for the rest of this process; `folder` keeps the library and Triton's builds.

    Raises RuntimeError where there is no C compiler. To be called before Triton's first use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stubs.c").write_text(STUBS)
    library = folder / "libcuda.so.1"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1"]
    command += ["-o", str(library), str(folder / "stubs.c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"the stubs need a C compiler: {error}") from error
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    class StubDriver(CudaDriver):
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

    driver = StubDriver()
    driver.get_current_device = lambda: 0
    driver.get_current_stream = lambda device: 0
    driver.set_current_device = lambda device: None
    triton.runtime.driver.set_active(driver)
