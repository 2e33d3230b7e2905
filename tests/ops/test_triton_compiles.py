"""The Triton kernels become machine code for Ampere, Hopper and Blackwell, and few of them serve a network,
without a GPU at hand."""

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from scans import convolutions, directions_problem

from nnunet_mamba.ops.backends import is_interpreting

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(is_interpreting(), reason="Triton is set to interpret, not to compile")

from triton.backends.compiler import GPUTarget  # noqa: E402

from nnunet_mamba.ops import (  # noqa: E402
    self_check,
    triton_conv,
    triton_conv_kernels,
    triton_cut,
    triton_kernels,
    triton_launch,
    triton_linear_attention,
    triton_linear_attention_kernels,
    triton_scan,
)

MOST_SPILLED_BYTES = 160
FUNCTIONS = (
    *(triton_kernels.segment_ends, triton_kernels.carry, triton_kernels.forward),
    *(triton_kernels.segment_gradients, triton_kernels.backward),
    *(triton_conv_kernels.conv_forward, triton_conv_kernels.conv_backward),
    *(triton_linear_attention_kernels.chunk_states, triton_linear_attention_kernels.carry_states),
    *(triton_linear_attention_kernels.outputs, triton_linear_attention_kernels.decay_gradients),
)


class NoGPU:
    """A driver for Triton that knows what to compile for."""

    def __init__(self, capability: int):
        self.get_current_target = lambda: GPUTarget("cuda", capability, 32)
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0


@pytest.fixture
def compile_for(monkeypatch):
    """A function: compile for this capability from now on; nothing runs."""

    def forget():
        for function in FUNCTIONS:
            function.device_caches.clear()

    def choose(capability: int) -> None:
        forget()
        drivers = triton.runtime.driver
        active = "_active" if hasattr(drivers, "_active") else "active"  # until Triton 3.4
        monkeypatch.setattr(drivers, active, NoGPU(capability))

    for module in (triton_scan, triton_conv, triton_linear_attention):
        monkeypatch.setattr(module, "processors", lambda device: 132)
        monkeypatch.setattr(module, "_plans", {})
    monkeypatch.setattr(triton_launch.Kernel, "at_once", lambda kernel: 12)
    monkeypatch.setattr(triton_launch.Kernel, "__call__", lambda kernel, grid, values: None)
    yield choose
    forget()


def spilled_bytes(cubin: bytes, folder: Path) -> int:
    """Of a thread's stack, as the machine code says."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.is_file() and shutil.which("cuobjdump") is None:
        pytest.skip("cuobjdump is not there")
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [str(tool) if tool.is_file() else "cuobjdump", "-res-usage", str(path)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True)
    text = usage.stdout + usage.stderr
    return int(text.split("STACK:")[1].split()[0])


@pytest.mark.parametrize(
    ("capability", "dtype"), [(80, torch.float32), (90, torch.float16), (120, torch.bfloat16)]
)
def test_every_kernel_compiles_and_keeps_its_state_in_registers(compile_for, capability, dtype, tmp_path):
    compile_for(capability)
    arguments, options = directions_problem(1, 2, 512, 64, 16, dtype=dtype)
    call = [tensor.detach() for tensor in arguments.values()]
    rest = (options["indices"], True, options["reverse"])
    triton_scan.forward(*call, *rest, True)
    arguments, options = convolutions(1, 2, 512, 64, 4, dtype=dtype)
    call = [*(t.detach() for t in arguments.values()), options["indices"], True, options["reverse"]]
    triton_conv.backward(triton_conv.forward(*call), *call)
    (scan,), (conv,) = triton_scan._plans.values(), triton_conv._plans.values()
    compiled = [kernel._runner for kernel in (*scan.kernels.values(), conv.kernel, *conv.gradients)]
    assert len(compiled) == 8
    for runner in compiled:
        assert runner.metadata.target.arch == capability
        if capability == 90:
            assert spilled_bytes(runner.asm["cubin"], tmp_path) <= MOST_SPILLED_BYTES, runner.name


@pytest.mark.parametrize(
    ("capability", "dtype"), [(80, torch.float32), (90, torch.float16), (120, torch.bfloat16)]
)
def test_linear_attention_compiles_and_keeps_its_tiles_in_registers(compile_for, capability, dtype, tmp_path):
    compile_for(capability)
    values, log_decay = torch.zeros(1, 1, 100, 2, 64, dtype=dtype), torch.zeros(1, 1, 100, 2)
    keys = torch.zeros(1, 1, 100, 1, 32, dtype=dtype)
    y, states = triton_linear_attention.forward(values, log_decay, keys, keys, None, [False], True)
    triton_linear_attention.backward(y, values, log_decay, keys, keys, None, states, [False])
    (plan,) = triton_linear_attention._plans.values()
    compiled = [kernel._runner for kernel in plan.kernels.values()]
    assert {runner.name for runner in compiled} == {function.__name__ for function in FUNCTIONS[-4:]}
    for runner in compiled:
        assert runner.metadata.target.arch == capability
        assert spilled_bytes(runner.asm["cubin"], tmp_path) <= MOST_SPILLED_BYTES, runner.name


@pytest.mark.skipif(not hasattr(triton, "knobs"), reason="older Tritons have no hook before compilation")
def test_a_networks_layers_share_their_kernels(compile_for, monkeypatch):
    """Before their integers were left to run time, 39 of MM-UNet and 160 of Multidirectional."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    kernels_of = importlib.import_module("gpu_kernels").kernels_of
    compile_for(90)
    assert kernels_of("mm_unet").total() <= 25
    assert kernels_of("mamba_multi").total() <= 60


def launched(case: self_check.KernelCase, at_once: int) -> set[tuple[str, ...]]:
    """Which outputs the launches of a case's scan add to, on an H100."""
    k, b, length, d, n, g = case.directions, case.batch, case.length, case.channels, case.states, case.groups
    with torch.device("meta"):
        u, delta = torch.empty(1 if case.shared else k, b, length, d), torch.empty(k, b, length, d)
        A, B, z = torch.empty(k, d, n), torch.empty(k, b, g, length, n), torch.empty(b, length, d)
    plan = triton_scan.LaunchPlan((u, delta, A, B, B, None, z, None, None), True, [False] * k)
    found = set()
    for phase in ("forward", "backward"):
        cut = triton_cut.cut(plan.sizes, phase, 1 if case.small_gpu else 132, at_once)
        found |= {plan.adds(phase, piece) for piece in range(0, plan.sizes.pieces, cut.at_once)}
    return found


@pytest.mark.parametrize("at_once", [4, 8, 16])
def test_the_self_check_tries_every_way_of_adding_up(at_once):
    tried = set().union(*(launched(case, at_once) for case in self_check.FEW if not case.taps))
    assert tried == {(), ("y",), ("dz",), ("du", "dz"), ("du", "ddelta", "dz")}


class Parsed:
    """Stands for a kernel whose first compilation fails with an error."""

    def __init__(self, error: Exception | None):
        self.error, self.is_compiled = error, False

    def compile(self, device) -> None:
        error, self.error = self.error, None
        if error:
            raise error
        self.is_compiled = True


def test_what_pythons_parser_mistakes_in_threads_is_compiled_again():
    """CPython 3.11: AST constructor recursion depth mismatch."""
    kernels = [Parsed(SystemError("mismatch")), Parsed(None), Parsed(RecursionError())]
    triton_launch.compile_all(kernels, torch.device("cpu"))
    assert all(kernel.is_compiled for kernel in kernels)
    with pytest.raises(ValueError, match="wrong"):
        triton_launch.compile_all([Parsed(None), Parsed(ValueError("wrong"))], torch.device("cpu"))
