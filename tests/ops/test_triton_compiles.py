"""The Triton kernels become machine code for Ampere, Hopper and Blackwell, without a GPU at hand."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from scans import convolutions, walks_problem

from nnunet_mamba.ops.backends import interpreting

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(interpreting(), reason="Triton is set to interpret, not to compile")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from nnunet_mamba.ops import triton_conv, triton_kernels, triton_scan  # noqa: E402

ALIGNED = [["tt.divisibility", 16]]
MOST_SPILLED_BYTES = 64


class Recorder:
    """Stands for a kernel, and keeps what it is launched with."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, []

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((args, options))


@pytest.fixture
def launches(monkeypatch):
    """A function: the launches of forward and backward, as (kernel, arguments, options)."""

    def record(dtype) -> list[tuple]:
        recorders = []
        kernels = [(triton_kernels, name) for name in ("segment_ends", "carry", "forward")]
        kernels += [(triton_kernels, name) for name in ("segment_gradients", "backward")]
        kernels += [(triton_conv, name) for name in ("conv_forward", "conv_backward")]
        for module, name in kernels:
            recorders.append(Recorder(getattr(module, name)))
            monkeypatch.setattr(module, name, recorders[-1])
        monkeypatch.setattr(triton_scan, "processors", lambda device: 100)
        launch_all(dtype)
        return [(r.kernel, args, options) for r in recorders for args, options in r.launches[:1]]

    return record


def launch_all(dtype) -> None:
    arguments, options = walks_problem(1, 2, 512, 64, 16, dtype=dtype)
    call = [arguments[name].detach() for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    rest = (options["rows"], True, options["reverse"])
    _, states = triton_scan.forward(*call, *rest, True)
    triton_scan.backward(call[6], *call, rest[0], states, *rest[1:])
    arguments, options = convolutions(1, 2, 512, 64, 4, dtype=dtype)
    call = [*(t.detach() for t in arguments.values()), options["rows"], True, options["reverse"]]
    triton_conv.forward(*call)
    triton_conv.backward(arguments["x"].detach(), *call)


def described(value, place) -> tuple:
    """Type, constants and alignments of an argument as Triton's launcher would find them."""
    if isinstance(value, tuple):
        parts = [described(part, (*place, i)) for i, part in enumerate(value)]
        constants = {k: v for _, found, _ in parts for k, v in found.items()}
        aligned = {k: v for _, _, found in parts for k, v in found.items()}
        types = [kind for kind, _, _ in parts]
        return type(value)(*types) if hasattr(value, "_fields") else tuple(types), constants, aligned
    if isinstance(value, torch.Tensor):
        names = {torch.float16: "fp16", torch.float32: "fp32", torch.bfloat16: "bf16", torch.int32: "i32"}
        return f"*{names[value.dtype]}", {}, {place: ALIGNED}
    if isinstance(value, int) and value != 1:
        return "i32", {}, {place: ALIGNED} if value % 16 == 0 else {}
    return "constexpr", {place: value}, {}


def compiled(kernel, args, options, capability: int):
    settings = {name: options[name] for name in ("num_warps", "enable_fp_fusion")}
    constants = {name: value for name, value in options.items() if name not in settings}
    signature, values, aligned = {}, {}, {}
    positional = dict(zip([name for name in kernel.arg_names if name not in constants], args, strict=True))
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
            continue
        signature[name], own, lines = described(positional[name], (i,))
        values |= own
        aligned |= lines
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)


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
def test_every_kernel_compiles_and_keeps_its_state_in_registers(launches, capability, dtype, tmp_path):
    found = launches(dtype)
    assert len(found) == 7
    for kernel, args, options in found:
        cubin = compiled(kernel, args, options, capability).asm["cubin"]
        if capability == 90:
            assert spilled_bytes(cubin, tmp_path) <= MOST_SPILLED_BYTES, kernel.__name__
