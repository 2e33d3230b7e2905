"""Build native_scan.cpp with the machine's compiler and call it, for comparison in `scan.py`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("native_scan.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")

ARGUMENTS = ("u", "delta", "z", "A", "B", "C", "D", "delta_bias")


def _struct(name: str, fields: str, kind: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": [(field, kind) for field in fields.split()]})


Sizes = _struct("Sizes", "b l d n", ctypes.c_long)
Inputs = _struct("Inputs", "u delta z A B C D bias", ctypes.c_void_p)
Outputs = _struct("Outputs", "y states", ctypes.c_void_p)
Grads = _struct("Grads", "dy du ddelta dz dA dB dC dD dbias", ctypes.c_void_p)


def build() -> ctypes.CDLL:
    """Compile into a temporary folder and load. Exits with a message where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise SystemExit("--native needs g++, which is not on the PATH; install it or leave out --native.")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "native_scan.so"
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(library)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
        return ctypes.CDLL(str(library))


class NativeScan:
    """Call with softplus, D and z, its inputs channels last and its outputs allocated beforehand.

    Shapes as in `native_scan.cpp`; the tensors of `call` are those of `selective_scan`.
    """

    def __init__(self, library: ctypes.CDLL, call: dict[str, Tensor], threads: int):
        self.library, self.threads = library, ctypes.c_long(threads)
        last = {name: call[name].detach().mT.contiguous() for name in ("u", "delta", "z", "B", "C")}
        rest = {name: call[name].detach().contiguous() for name in ("A", "D", "delta_bias")}
        self.tensors = last | rest
        self.inputs = Inputs(*(self.tensors[name].data_ptr() for name in ARGUMENTS))
        (b, length, d), n = last["u"].shape, rest["A"].shape[1]
        if d % library.pair() or n % 4:
            raise ValueError(
                f"Got d {d} and n {n}; native_scan.cpp takes multiples of {library.pair()} and 4."
            )
        self.sizes = Sizes(b, length, d, n)
        self.y, self.dy = torch.zeros(b, length, d), torch.ones(b, length, d)
        self.states = torch.zeros(b, -(-length // library.chunk()), n, d)
        self.grads = {name: torch.zeros(b, length, d) for name in ("u", "delta", "z")}
        self.grads |= {name: torch.zeros(threads, b, length, n) for name in ("B", "C")}
        self.grads |= {"A": torch.zeros(b, n, d), "D": torch.zeros(b, d), "delta_bias": torch.zeros(b, d)}

    def forward(self) -> float:
        """Run forward and return its milliseconds."""
        start = time.perf_counter()
        self.library.forward(
            self.threads, self.sizes, self.inputs, Outputs(self.y.data_ptr(), self.states.data_ptr())
        )
        return 1e3 * (time.perf_counter() - start)

    def backward(self) -> float:
        """Run backward and return its milliseconds, with the zeros and the last sums that it needs."""
        grads = Grads(self.dy.data_ptr(), *(self.grads[name].data_ptr() for name in ARGUMENTS))
        start = time.perf_counter()
        for name in ("D", "delta_bias"):
            self.grads[name].zero_()
        if self.threads.value > 1:
            for name in ("B", "C"):
                self.grads[name].zero_()
        self.library.backward(
            self.threads, self.sizes, self.inputs, ctypes.c_void_p(self.states.data_ptr()), grads
        )
        self.gradients()
        return 1e3 * (time.perf_counter() - start)

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients in the shapes of `selective_scan`'s arguments."""
        whole = {name: self.grads[name] for name in ("u", "delta", "z")}
        parts = {name: self.grads[name] for name in ("A", "B", "C", "D", "delta_bias")}
        sums = {name: part[0] if len(part) == 1 else part.sum(0) for name, part in parts.items()}
        return {name: grad.mT if grad.dim() > 1 else grad for name, grad in (whole | sums).items()}
