"""The selective scan on NVIDIA GPUs: plans of calls of one kind, and launches of their kernels.

Shapes: k directions, b batch, l tokens, d channels, g groups, n states; u (k or 1, b, l, d); delta (k, b, l,
d); A (k, d, n); B, C (k, b, g, l, n); D, bias (k, d); z, y (b, l, d); indices (k, l); `reverse`, one bool per
direction.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops import triton_cut, triton_kernels
from nnunet_mamba.ops.constants import UNROLL, WIDTH, chunk_count
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.triton_cut import CHUNK, Cut, ScanSizes
from nnunet_mamba.ops.triton_launch import Kernel, compile_all

TAKES_ALL_DIRECTIONS = True
INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "bias", "indices")
OUTPUTS = {"forward": ("y",), "backward": ("du", "ddelta", "dz")}  # that pieces may add to
ENDS = {"forward": "segment_ends", "backward": "segment_gradients"}
CARRY_BLOCK = 64
ALIGNED = 16  # bytes that one instruction reads
MOST_PLANS = 4096  # a network has one for each of its layers and sizes of input
_preparing = threading.Lock()
_plans: dict[Any, LaunchPlan] = {}


def forward(
    u, delta, A, B, C, D, z, bias, indices, softplus: bool, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y (b, l, d) in u's dtype and, if `keep`, the states before each chunk (k, b, chunks, n, d)."""
    inputs = _laid_out(u, delta, A, B, C, D, z, bias, indices)
    with torch.cuda.device_of(u):
        plan = _plan_of(inputs, softplus, reverse, ("forward", "backward") if keep else ("forward",))
        return plan.forward(inputs, keep)


def backward(
    dy, u, delta, A, B, C, D, z, bias, indices, states, softplus: bool, reverse: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Return gradients of u, delta, A, B, C, D, z (empty without z) and bias."""
    inputs = _laid_out(u, delta, A, B, C, D, z, bias, indices)
    with torch.cuda.device_of(u):
        plan = _plan_of(inputs, softplus, reverse, ("backward",))
        return plan.backward(inputs, dy.to(u.dtype).contiguous(), states)


def row_contiguous(tensor: Tensor) -> Tensor:
    """Return the tensor with its last axis contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def aligned_rows(tensor: Tensor) -> Tensor:
    """Return B or C with rows aligned to ALIGNED bytes, and zeros for the states that programs have beyond n;
    the tensor itself if it has them already."""
    size, n = tensor.element_size(), tensor.shape[-1]
    states = triton_cut.states_of(n)
    direction, item, group, row, value = tensor.stride()
    begins = tensor.data_ptr() | size * (direction | item | group | row)
    if begins % ALIGNED == 0 and n % states == 0 and value == 1:
        return tensor
    width = -(-n // states) * states
    width = -(-width * size // ALIGNED) * ALIGNED // size
    padded = tensor.new_zeros(*tensor.shape[:-1], width)
    padded[..., :n] = tensor
    return padded


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Return all strides but the last; 0 for a first axis that is shared."""
    first, *others = tensor.stride()[:-1]
    return 0 if len(tensor) == 1 else first, *others


def index_type(values: int) -> Any:
    """Return the integer type that can count the values of one batch item."""
    return tl.int32 if values < 2**31 else tl.int64


def processors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU; the interpreter's CPU counts as a small one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _laid_out(u, delta, A, B, C, D, z, bias, indices) -> tuple[Tensor | None, ...]:
    """Return the tensors as the kernels read them: sequences with a contiguous last axis, others
    contiguous."""
    u, delta = row_contiguous(u), row_contiguous(delta)
    B, C = (aligned_rows(t) for t in (B, C))
    A, D, bias, indices = (None if t is None else t.contiguous() for t in (A, D, bias, indices))
    return u, delta, A, B, C, D, None if z is None else row_contiguous(z), bias, indices


def _plan_of(
    inputs: Sequence[Tensor | None], softplus: bool, reverse: Sequence[bool], phases: Sequence[str]
) -> LaunchPlan:
    """Return the plan of calls of this kind, prepared for the `phases`."""
    plan: LaunchPlan = cached_plan(_plans, LaunchPlan, inputs, softplus, reverse)
    if not plan.cuts.keys() >= set(phases):
        plan.prepare(phases)
    return plan


def cached_plan(
    plans: dict[Any, Any],
    make: Callable[..., Any],
    inputs: Sequence[Tensor | None],
    flag: bool,
    reverse: Sequence[bool],
) -> Any:
    """Return make(inputs, flag, reverse), cached by the shapes, strides and types of the inputs.

    The cache is cleared when it holds MOST_PLANS.
    """
    layout = tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs)
    key = (layout, flag, *reverse, inputs[0].device)  # type: ignore[union-attr]
    plan = plans.get(key)
    if plan is not None:
        return plan
    if len(plans) >= MOST_PLANS:
        plans.clear()
    return plans.setdefault(key, make(inputs, flag, reverse))  # another thread may have been faster


class LaunchPlan:
    """Plan of calls of the same shapes, strides and types: kernels, integers and cuts.

    Pieces, which are directions' blocks of states, add up to fewer slots of an output: y and dz have one, du
    as many as u has directions, ddelta one per direction. A launch of all pieces gives each a slot of its
    own.
    """

    def __init__(self, inputs: Sequence[Tensor | None], softplus: bool, reverse: Sequence[bool]):
        u, delta, A, B, C, _, z, *_ = inputs
        assert u is not None and delta is not None and A is not None and B is not None and C is not None
        directions, batch, length, channels = delta.shape
        self.sizes = s = ScanSizes(directions, batch, length, channels, groups=B.shape[2], n=A.shape[2])
        self.device, self.dtype = u.device, u.dtype
        self.sums = accumulation_dtype(u)
        self.slots = {"y": 1, "du": len(u), "ddelta": s.directions, "dz": 1}
        of_z = u.dtype if z is None else z.dtype
        self.of_outputs = {"y": u.dtype, "du": u.dtype, "ddelta": delta.dtype, "dz": of_z}
        gate = (0, 0) if z is None else z.stride()[:2]
        self.integers = {
            **{"length": s.length, "channels": s.channels, "group_channels": s.channels // s.groups},
            **{"groups": s.groups, "n": s.n, "batch": s.batch, "channel_blocks": s.channel_blocks},
            **{"state_blocks": s.state_blocks, "z_item": gate[0], "z_row": gate[1]},
            **_named("u", u),
            **_named("delta", delta),
            **_named("B", B),
            **_named("C", C),
            "reverse": sum(1 << direction for direction, is_reversed in enumerate(reverse) if is_reversed),
        }
        widest = max(s.channels, gate[1], *(t.stride(-2) for t in (u, delta, B, C)))
        self.constants = {
            "SOFTPLUS": softplus,
            "TERMS": 17 if self.sums == torch.float64 else 8,
            "CHUNK": CHUNK,
            "ACC": tl.float64 if self.sums == torch.float64 else tl.float32,
            "INDEX": index_type(s.length * widest),
            "N": s.states,
            "WIDTH": WIDTH,
            "BLOCK": CARRY_BLOCK,
        }
        self.types = {name: None if t is None else t.dtype for name, t in zip(INPUTS, inputs, strict=True)}
        self.kernels: dict[tuple[str, Any], Kernel] = {}
        self.cuts: dict[str, Cut] = {}

    def prepare(self, phases: Sequence[str]) -> None:
        """Compile the kernels of the passes, and cut the passes as the kernels' registers allow."""
        with _preparing:
            missing = [phase for phase in phases if phase not in self.cuts]
            kernels = {key: kernel for phase in missing for key, kernel in self._kernels_of(phase).items()}
            compile_all(kernels.values(), self.device)
            self.kernels |= kernels
            for phase in missing:
                at_once = kernels[phase, self.adds(phase, 0)].at_once()
                self.cuts[phase] = triton_cut.cut(self.sizes, phase, processors(self.device), at_once)

    def _kernels_of(self, phase: str) -> dict[tuple[str, Any], Kernel]:
        """Return kernels by phase and "ends", "carry" or, of the pass itself, the outputs that it adds to."""
        of_sums = ("ends", "totals", "states", "scratch", "dA", "dB", "dC", "dD", "dbias")
        types = {**self.types, **dict.fromkeys(of_sums, self.sums), "dy": self.dtype}
        types |= {name: self.output_type(name) for name in OUTPUTS[phase]}
        integers = {**self.integers, **dict.fromkeys(("first", "segments", "segment_steps"), 0)}
        integers |= dict.fromkeys(("keep", "blocks", "from_end"), 0)

        def kernel(name: str, unroll: int, warps: int = 1, **adds: bool) -> Kernel:
            constants = {**self.constants, "UNROLL": unroll, **adds}
            function = getattr(triton_kernels, name)
            return Kernel(function, types, integers, constants, num_warps=warps, enable_fp_fusion=True)

        found: dict[tuple[str, Any], Kernel] = {
            (phase, "ends"): kernel(ENDS[phase], UNROLL["forward"]),
            (phase, "carry"): kernel("carry", 1, warps=CARRY_BLOCK // 32),
        }
        for adds in {self.adds(phase, piece) for piece in range(self.sizes.pieces)}:
            flags = {f"ADD_{name.upper()}": name in adds for name in OUTPUTS[phase]}
            found[phase, adds] = kernel(phase, UNROLL[phase], **flags)
        return found

    def output_type(self, name: str) -> torch.dtype:
        """Return the dtype of an output: that of sums if pieces add up to it."""
        return self.sums if self.sizes.pieces > self.slots[name] else self.of_outputs[name]

    def slot(self, name: str, piece: int) -> int:
        """Return the slot of an output that a piece adds to."""
        return piece * self.slots[name] // self.sizes.pieces

    def adds(self, phase: str, piece: int) -> tuple[str, ...]:
        """Return the outputs that a launch of this piece alone adds to: those that the one before has written
        to."""
        if piece == 0:
            return ()
        return tuple(n for n in OUTPUTS[phase] if self.slot(n, piece - 1) == self.slot(n, piece))

    def empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the accumulation dtype."""
        return torch.empty(shape, dtype=self.sums, device=self.device)

    def forward(self, inputs: Sequence[Tensor | None], keep: bool) -> tuple[Tensor, Tensor]:
        s, cut = self.sizes, self.cuts["forward"]
        shape = (s.directions, s.batch, chunk_count("triton", s.length), s.n, s.channels)
        states = self.empty(*shape) if keep else self.empty(0)
        values = self._values(cut, inputs, states=states, keep=keep)
        y = self._output(cut, "y")
        for piece in range(0, s.pieces, cut.at_once):
            self._launch("forward", cut, piece, values, y=y)
        return self._result("y", y)[0].to(self.dtype), states

    def backward(self, inputs: Sequence[Tensor | None], dy: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        s, cut = self.sizes, self.cuts["backward"]
        scratch = self.empty(math.prod(cut.grid), CHUNK // UNROLL["backward"], s.states * WIDTH)
        values = self._values(cut, inputs, dy=dy, states=states, scratch=scratch)
        outputs = {name: self._output(cut, name) for name in OUTPUTS["backward"]}
        tokens = (s.batch, s.groups, s.length, s.n)
        sums = {
            "dA": _Sum(self, cut, cut.programs, s.channels, s.n),
            "dB": _Sum(self, cut, s.channel_blocks, *tokens),
            "dC": _Sum(self, cut, s.channel_blocks, *tokens),
            "dD": _Sum(self, cut, cut.programs, s.channels),
            "dbias": _Sum(self, cut, cut.programs * s.state_blocks, s.channels),
        }
        for piece in range(0, s.pieces, cut.at_once):
            direction, block = divmod(piece, s.state_blocks)
            for name, one in sums.items():
                values[name] = one.target(direction, block * cut.programs if name == "dbias" else 0)
            self._launch("backward", cut, piece, values, **outputs)
            if cut.together or block == s.state_blocks - 1:
                for one in sums.values():
                    one.add_up(direction)
        du, ddelta, dz = (self._result(name, output) for name, output in outputs.items())
        dA, dB, dC, dD, dbias = (one.total for one in sums.values())
        return du, ddelta, dA, dB, dC, dD, dz[0] if self.types["z"] else dz.flatten(), dbias

    def _values(self, cut: Cut, inputs: Sequence[Tensor | None], **others: Any) -> dict[str, Any]:
        """Return the values of a pass by the names of the kernels' parameters."""
        s = self.sizes
        places = (cut.at_once, s.batch, cut.segments if cut.segments > 1 else 0)
        values = dict(zip(INPUTS, inputs, strict=True))
        cutting = {"segments": cut.segments, "segment_steps": cut.steps}
        ends = self.empty(*places, s.states, s.channels)
        totals = self.empty(*places, s.channels)
        return {**values, **self.integers, **cutting, "ends": ends, "totals": totals, **others}

    def _launch(self, phase: str, cut: Cut, piece: int, values: dict[str, Any], **outputs: Tensor) -> None:
        """Launch all pieces, or this one."""
        values["first"] = piece
        for name, output in outputs.items():
            slot = 0 if cut.together else self.slot(name, piece)
            values[name] = output[slot:] if slot else output
        if cut.segments > 1:
            self.kernels[phase, "ends"](cut.grid, values)
            values["blocks"] = -(-self.sizes.states * self.sizes.channels // CARRY_BLOCK)
            values["from_end"] = phase == "backward"
            grid = (values["blocks"] * self.sizes.batch, cut.at_once, 1)
            self.kernels[phase, "carry"](grid, values)
        self.kernels[phase, self.adds(phase, piece)](cut.grid, values)

    def _output(self, cut: Cut, name: str) -> Tensor:
        """Return memory for an output's slots, or for one slot per piece if all run together."""
        s, slots = self.sizes, self.sizes.pieces if cut.together else self.slots[name]
        length = 0 if name == "dz" and self.types["z"] is None else s.length
        shape = (slots, s.batch, length, s.channels)
        return torch.empty(shape, dtype=self.output_type(name), device=self.device)

    def _result(self, name: str, output: Tensor) -> Tensor:
        """Return an output summed to its slots (slots, b, l, d)."""
        if len(output) > self.slots[name]:
            return output.unflatten(0, (self.slots[name], -1)).sum(1)
        return output


def _named(name: str, tensor: Tensor) -> dict[str, int]:
    """Return the strides of a sequence by the names of the kernels' parameters."""
    axes = ("direction", "item", "group", "row") if tensor.dim() == 5 else ("direction", "item", "row")
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides(tensor), strict=True)}


class _Sum:
    """Gradient (directions, *shape) of which programs write parts, to be summed in a fixed order."""

    def __init__(self, plan: LaunchPlan, cut: Cut, shares: int, *shape: int):
        self.total = plan.empty(plan.sizes.directions, *shape)
        self.parts = None if shares == 1 else plan.empty(cut.directions_at_once, shares, *shape)

    def target(self, direction: int, share: int = 0) -> Tensor:
        """Return the memory of a launch that begins with this direction, and with this part of it."""
        if self.parts is None:
            return self.total[direction:] if direction else self.total
        return self.parts[0, share:] if share else self.parts

    def add_up(self, direction: int) -> None:
        """Sum the parts of a launch."""
        if self.parts is not None:
            directions = self.parts.shape[0]
            out = (
                self.total
                if directions == self.total.shape[0]
                else self.total[direction : direction + directions]
            )
            torch.sum(self.parts, 1, out=out)
