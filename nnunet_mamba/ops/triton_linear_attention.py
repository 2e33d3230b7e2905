"""Linear attention with decay on NVIDIA GPUs: plans of calls of one kind, and launches of
`triton_linear_attention_kernels`.

Shapes: k directions, b batch, l tokens, h heads of p channels, g groups, n states; values (k or 1, b, l, h,
p); log_decay (k, b, l, h); keys, queries (k, b, l, g, n); indices (k, l); y (b, l, h, p); states (k, b,
chunks, n, h p); `reverse`, one bool per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from nnunet_mamba.ops import triton_linear_attention_kernels as kernels
from nnunet_mamba.ops.constants import LINEAR_CHUNKS
from nnunet_mamba.ops.precision import accumulation_dtype
from nnunet_mamba.ops.triton_launch import Kernel, compile_all
from nnunet_mamba.ops.triton_scan import cached_plan, index_type, processors, row_contiguous, strides

TAKES_ALL_DIRECTIONS = True
CHUNK = LINEAR_CHUNKS["triton"]
BLOCK = 32  # at most of an axis of results; larger ones do not fit into registers
CONTRACTED = 16  # of an axis that a product contracts: the least, for the same reason
CARRY_BLOCK = 64
AT_ONCE = 4  # programs of a multiprocessor that share a group's heads
WARPS = {"chunk_states": 4, "carry_states": CARRY_BLOCK // 32, "outputs": 4, "decay_gradients": 8}
INPUTS = ("values", "log_decay", "keys", "queries", "indices")
_plans: dict[Any, LinearAttentionPlan] = {}


@dataclass(frozen=True)
class Role:
    """Tensors that the kernels take for values, keys, queries and states to compute an output; `ends` are the
    gradients of the states at the chunks' ends. Outputs `of_groups` contract over p, others over n."""

    values: str
    keys: str
    queries: str
    states: str
    backward: bool
    of_groups: bool = False


ROLES = {
    "y": Role("values", "keys", "queries", "states", backward=False),
    "dvalues": Role("dy", "queries", "keys", "ends", backward=True),
    "dqueries": Role("keys", "values", "dy", "states", backward=False, of_groups=True),
    "dkeys": Role("queries", "dy", "values", "ends", backward=True, of_groups=True),
}


def forward(
    values, log_decay, keys, queries, indices, reverse: Sequence[bool], keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y (b, l, h, p) in the values' dtype and, if `keep`, the states before each chunk."""
    inputs = _laid_out(values, log_decay, keys, queries, indices)
    with torch.cuda.device_of(values):
        plan: LinearAttentionPlan = cached_plan(_plans, LinearAttentionPlan, inputs, False, reverse)
        y, states = plan.forward(inputs)
    return y.view(values.shape[1:]), states if keep else states.new_empty(0)


def backward(
    dy, values, log_decay, keys, queries, indices, states, reverse: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of values, log_decay, keys and queries, the last three in the accumulation dtype."""
    inputs = _laid_out(values, log_decay, keys, queries, indices)
    with torch.cuda.device_of(values):
        plan: LinearAttentionPlan = cached_plan(_plans, LinearAttentionPlan, inputs, False, reverse)
        return plan.backward(inputs, dy.to(values.dtype).contiguous()[None], states)


def _laid_out(values, log_decay, keys, queries, indices) -> tuple[Tensor | None, ...]:
    """Return the tensors as the kernels read them: last axes are contiguous, values' last two together."""
    p = values.shape[4]
    together = values.stride(3) == p or values.shape[3] == 1
    values = row_contiguous(values) if together else values.contiguous()
    rows = (row_contiguous(t) for t in (log_decay, keys, queries))
    return values, *rows, None if indices is None else indices.contiguous()


class LinearAttentionPlan:
    """Plan of calls of the same shapes, strides and types: kernels, integers and grids."""

    def __init__(self, inputs: Sequence[Tensor | None], _: bool, reverse: Sequence[bool]):
        values, log_decay, keys, queries, _indices = inputs
        assert values is not None and log_decay is not None and keys is not None and queries is not None
        self.directions, self.batch, self.length, self.heads = log_decay.shape
        self.shared, self.p = len(values) < self.directions, values.shape[4]
        self.groups, self.n = keys.shape[3:]
        self.dtype, self.sums, self.device = values.dtype, accumulation_dtype(values), values.device
        self.chunks = -(-self.length // CHUNK)
        self.n_blocks, self.p_blocks = (-(-size // _block(size)) for size in (self.n, self.p))
        self.integers = {
            **{"length": self.length, "chunks": self.chunks, "heads": self.heads, "p": self.p, "n": self.n},
            **{"group_heads": self.heads // self.groups, "batch": self.batch, "n_blocks": self.n_blocks},
            **{"blocks": -(-self.n * self.heads * self.p // CARRY_BLOCK)},
            "reverse": sum(1 << direction for direction, is_reversed in enumerate(reverse) if is_reversed),
        }
        widest = max(self.heads * self.p, *(t.stride(2) for t in (values, log_decay, keys, queries)))
        self.constants = {
            **{"CHUNK": CHUNK, "S": CONTRACTED, "INNER": CONTRACTED, "BLOCK": CARRY_BLOCK},
            "ACC": tl.float64 if self.sums == torch.float64 else tl.float32,
            "INDEX": index_type(self.length * widest),
        }
        self.kernels: dict[Any, Kernel] = {}

    def forward(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        tensors, launches = dict(zip(INPUTS, inputs, strict=True)), Launches(self)
        states = self._states("y", tensors, launches)
        y = self._output("y", {**tensors, "states": states}, launches)
        launches.run()
        return y.to(self.dtype), states

    def backward(
        self, inputs: Sequence[Tensor | None], dy: Tensor, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors = {**dict(zip(INPUTS, inputs, strict=True)), "dy": dy, "states": states}
        launches = Launches(self)
        tensors["ends"] = self._states("dvalues", tensors, launches)
        dvalues, dkeys, dqueries = (
            self._output(name, tensors, launches) for name in ("dvalues", "dkeys", "dqueries")
        )
        dlog_decay = self._decay_gradient(tensors, launches)
        launches.run()
        return dvalues, dlog_decay, _sum_shares(dkeys), _sum_shares(dqueries)

    def _states(self, name: str, tensors: dict[str, Any], launches: Launches) -> Tensor:
        """Return the states that an output starts from: those before chunks, or gradients at their ends."""
        backward, places = ROLES[name].backward, (self.directions, self.batch, self.chunks)
        states, totals = self._empty(*places, self.n, self.heads * self.p), self._empty(*places, self.heads)
        values = {**self._values(name, tensors), "states": states, "totals": totals, "from_end": backward}
        grid = (self.chunks * self.batch, self.heads * self.p_blocks * self.n_blocks, self.directions)
        blocks = {"P": _block(self.p), "N": _block(self.n)}
        launches.add("chunk_states", name, grid, values, BACKWARD=backward, **blocks)
        launches.add("carry_states", name, (values["blocks"] * self.batch, self.directions, 1), values)
        return states

    def _output(self, name: str, tensors: dict[str, Any], launches: Launches) -> Tensor:
        """Return y or dvalues (1 or k, b, l, h, p), or dkeys or dqueries (k, shares, b, l, g, n).

        Directions are launched at once, or where they add up, one after the other.
        """
        values = {**self._values(name, tensors), **self._axes(name)}
        units, shares, of_groups = values["units"], values["shares"], ROLES[name].of_groups
        adds_up = self.directions > 1 and (name == "y" or (name == "dvalues" and self.shared))
        at_once = 1 if adds_up else self.directions
        slots = (at_once, shares) if of_groups else (at_once,)
        dtype = self.sums if adds_up or of_groups else self.dtype
        shape = (*slots, self.batch, self.length, units, values["width"])
        values["y"] = torch.empty(shape, dtype=dtype, device=self.device)
        grid = (self.chunks * self.batch, units * shares * values["width_blocks"], at_once)
        for first in range(0, self.directions, at_once):
            constants = {"ADD": first > 0, "BACKWARD": ROLES[name].backward, "WIDTH": _block(values["width"])}
            launches.add("outputs", name, grid, {**values, "first": first}, **constants)
        return values["y"]

    def _decay_gradient(self, tensors: dict[str, Any], launches: Launches) -> Tensor:
        """Return the gradient of log_decay (k, b, l, h)."""
        values = {**self._values("y", tensors), "ends": tensors["ends"], "dy": tensors["dy"]}
        values["dlog_decay"] = self._empty(self.directions, self.batch, self.length, self.heads)
        grid = (self.chunks * self.batch, self.heads, self.directions)
        launches.add("decay_gradients", "dlog_decay", grid, values, P=CONTRACTED, N=CONTRACTED)
        return values["dlog_decay"]

    def _values(self, name: str, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return tensors and strides in their roles for an output, by the names of kernels' parameters."""
        role = ROLES[name]
        sequences = {own: tensors[getattr(role, own)] for own in ("values", "keys", "queries")}
        values = {name: tensors[name] for name in ("log_decay", "indices")} | sequences | self.integers
        values |= {"states": tensors.get(role.states), **_strides("decay", tensors["log_decay"])}
        for own, tensor in sequences.items():
            values |= _strides(own, tensor)
        return values

    def _axes(self, name: str) -> dict[str, int]:
        """Return the axes of an output, by the names of the parameters of `outputs`."""
        row = self.heads * self.p
        axes = {"states_chunk": self.n * row, "states_head": self.p}
        if ROLES[name].of_groups:
            axes |= {"units": self.groups, "unit_heads": self.heads // self.groups, "group_heads": 1}
            axes |= {"width": self.n, "inner": self.p, "width_blocks": self.n_blocks}
            return axes | {"states_width": row, "states_inner": 1, "shares": self._shares()}
        axes |= {"units": self.heads, "unit_heads": 1, "width": self.p, "inner": self.n}
        return axes | {"width_blocks": self.p_blocks, "states_width": 1, "states_inner": row, "shares": 1}

    def _shares(self) -> int:
        """Return the number of parts of a group's heads whose gradients of keys are summed at the end."""
        programs = self.chunks * self.batch * self.directions * self.groups * self.n_blocks
        return min(self.heads // self.groups, -(-AT_ONCE * processors(self.device) // programs))

    def _empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the accumulation dtype."""
        return torch.empty(shape, dtype=self.sums, device=self.device)


class Launches:
    """Launches of a plan's kernels, collected so that those not yet compiled are compiled together."""

    def __init__(self, plan: LinearAttentionPlan):
        self.plan = plan
        self.all: list[tuple[Kernel, tuple[int, int, int], dict[str, Any]]] = []

    def add(
        self, name: str, output: str, grid: tuple[int, int, int], values: dict[str, Any], **constants: Any
    ) -> None:
        """Add a launch of a kernel; each output and its constants have a variant of their own."""
        key = (name, output, *constants.values())
        if key not in self.plan.kernels:
            self.plan.kernels[key] = self._kernel(name, values, constants)
        self.all.append((self.plan.kernels[key], grid, values))

    def _kernel(self, name: str, values: dict[str, Any], constants: dict[str, Any]) -> Kernel:
        """Return a kernel for such values."""
        integers = {own: value for own, value in values.items() if isinstance(value, int)}
        tensors = {own: value for own, value in values.items() if own not in integers}
        types = {own: None if tensor is None else tensor.dtype for own, tensor in tensors.items()}
        constants = self.plan.constants | constants
        options = {"num_warps": WARPS[name], "num_stages": 1, "enable_fp_fusion": True}
        return Kernel(getattr(kernels, name), types, integers, constants, **options)

    def run(self) -> None:
        """Launch all in the order in which they were added."""
        compile_all([kernel for kernel, _, _ in self.all], self.plan.device)
        for kernel, grid, values in self.all:
            kernel(grid, values)


def _sum_shares(parts: Tensor) -> Tensor:
    """Return the sum over the second axis; a single share needs no sum."""
    return parts[:, 0] if parts.shape[1] == 1 else parts.sum(1)


def _block(size: int) -> int:
    """Return the length of the blocks of an axis: a power of 2 that a matrix product can have."""
    return max(CONTRACTED, min(BLOCK, 1 << (size - 1).bit_length()))


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    """Return the strides of a sequence (directions, b, l, ...) by the names of the kernels' parameters."""
    axes = ("direction", "item", "row", "unit")
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides(tensor), strict=False)}
