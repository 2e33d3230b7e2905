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
BLOCK = 32  # of steps, of p and of n, at most: more do not fit into registers
CARRY_BLOCK = 64
AT_ONCE = 4  # programs of a multiprocessor that share a group's heads
WARPS = {"chunk_states": 4, "carry_states": CARRY_BLOCK // 32, "outputs": 8, "decay_gradients": 8}
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
        dvalues, *others = plan.backward(inputs, dy.to(values.dtype).contiguous()[None], states)
    return dvalues.view(values.shape), *others


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
        values, log_decay, keys, queries, *_indices = inputs
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
            **{"blocks": -(-self.n * self.heads * self.p // CARRY_BLOCK), "first": 0, "from_end": 0},
            "reverse": sum(1 << direction for direction, is_reversed in enumerate(reverse) if is_reversed),
        }
        widest = max(self.heads * self.p, *(t.stride(2) for t in (values, log_decay, keys, queries)))
        self.constants = {
            **{"CHUNK": CHUNK, "S": min(BLOCK, CHUNK), "P": _block(self.p), "N": _block(self.n)},
            "BLOCK": CARRY_BLOCK,
            "ACC": tl.float64 if self.sums == torch.float64 else tl.float32,
            "INDEX": index_type(self.length * widest),
        }
        self.types = {name: None if t is None else t.dtype for name, t in zip(INPUTS, inputs, strict=True)}
        self.types |= dict.fromkeys(("states", "ends", "totals", "dlog_decay"), self.sums)
        self.types |= {"dy": self.dtype}
        self.kernels: dict[Any, Kernel] = {}

    def forward(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        tensors = dict(zip(INPUTS, inputs, strict=True))
        tensors["states"] = self._states("y", tensors)
        y = self._output("y", tensors)
        return y.to(self.dtype), tensors["states"]

    def backward(
        self, inputs: Sequence[Tensor | None], dy: Tensor, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors = {**dict(zip(INPUTS, inputs, strict=True)), "dy": dy, "states": states}
        tensors["ends"] = self._states("dvalues", tensors)
        dvalues, dkeys, dqueries = (self._output(name, tensors) for name in ("dvalues", "dkeys", "dqueries"))
        return dvalues, self._decay_gradient(tensors), dkeys.sum(1), dqueries.sum(1)

    def _states(self, name: str, tensors: dict[str, Any]) -> Tensor:
        """Return the states that an output starts from: those before chunks, or gradients at their ends."""
        role = ROLES[name]
        places = (self.directions, self.batch, self.chunks)
        states, totals = self._empty(*places, self.n, self.heads * self.p), self._empty(*places, self.heads)
        values = {**self._values(tensors, role), "states": states, "totals": totals}
        values["from_end"] = role.backward
        grid = (self.chunks * self.batch, self.heads * self.p_blocks * self.n_blocks, self.directions)
        self._launch("chunk_states", grid, values, role, BACKWARD=role.backward)
        self._launch("carry_states", (values["blocks"] * self.batch, self.directions, 1), values, role)
        return states

    def _output(self, name: str, tensors: dict[str, Any]) -> Tensor:
        """Return an output (slots, b, l, h, p), or a gradient (directions, shares, b, l, g, n) of keys or
        queries: all directions at once, or one after the other where they add up."""
        role = ROLES[name]
        adds_up = self.directions > 1 and (name == "y" or name == "dvalues" and self.shared)
        values = {**self._values(tensors, role), **self._axes(role)}
        units, width, shares = values["units"], values["width"], values["shares"]
        at_once = 1 if adds_up else self.directions
        parts = (at_once, shares) if role.of_groups else (at_once,)
        dtype = self.sums if adds_up or role.of_groups else self.dtype
        shape = (*parts, self.batch, self.length, units, width)
        values["y"] = torch.empty(shape, dtype=dtype, device=self.device)
        grid = (self.chunks * self.batch, units * shares * values["width_blocks"], at_once)
        blocks = {"WIDTH": _block(width), "INNER": _block(values["inner"])}
        for first in range(0, self.directions, at_once):
            values["first"] = first
            self._launch("outputs", grid, values, role, ADD=first > 0, BACKWARD=role.backward, **blocks)
        return values["y"]

    def _decay_gradient(self, tensors: dict[str, Any]) -> Tensor:
        """Return the gradient of log_decay (directions, b, l, h)."""
        role = ROLES["y"]
        values = {**self._values(tensors, role), "ends": tensors["ends"], "dy": tensors["dy"]}
        values["dlog_decay"] = self._empty(self.directions, self.batch, self.length, self.heads)
        self._launch("decay_gradients", (self.chunks * self.batch, self.heads, self.directions), values, role)
        return values["dlog_decay"]

    def _values(self, tensors: dict[str, Any], role: Role) -> dict[str, Any]:
        """Return tensors and strides by the names of the kernels' parameters."""
        values = {"log_decay": tensors["log_decay"], "indices": tensors["indices"], **self.integers}
        values |= _strides("decay", tensors["log_decay"])
        for name in ("values", "keys", "queries"):
            tensor = tensors.get(getattr(role, name))
            if tensor is not None:
                values |= {name: tensor, **_strides(name, tensor)}
        return {**values, "states": tensors.get(role.states)}

    def _axes(self, role: Role) -> dict[str, int]:
        """Return the axes of an output by the names of the parameters of `outputs`."""
        of_states, row = self.n * self.heads * self.p, self.heads * self.p
        common = {"states_chunk": of_states, "states_head": self.p}
        if not role.of_groups:
            axes = {"units": self.heads, "unit_heads": 1, "shares": 1, "width": self.p, "inner": self.n}
            axes |= {"width_blocks": self.p_blocks, "states_inner": row, "states_width": 1}
            return common | axes
        axes = {"units": self.groups, "unit_heads": self.heads // self.groups, "shares": self._shares()}
        axes |= {"width": self.n, "inner": self.p, "width_blocks": self.n_blocks}
        return common | axes | {"states_inner": 1, "states_width": row, "group_heads": 1}

    def _shares(self) -> int:
        """Return the number of parts of a group's heads whose gradients of keys are summed at the end."""
        programs = self.chunks * self.batch * self.directions * self.groups * self.n_blocks
        return min(self.heads // self.groups, -(-AT_ONCE * processors(self.device) // programs))

    def _launch(
        self, name: str, grid: tuple[int, int, int], values: dict[str, Any], role: Role, **constants: Any
    ) -> None:
        """Launch a kernel, compiled at its first use."""
        key = (name, role if constants else None, *constants.values())
        kernel = self.kernels.get(key)
        if kernel is None:
            types = {n: None if v is None else v.dtype for n, v in values.items() if v is None or isinstance(v, Tensor)}
            integers = {n: v for n, v in values.items() if isinstance(v, int)}
            options = {"num_warps": WARPS[name], "num_stages": 1, "enable_fp_fusion": True}
            kernel = Kernel(getattr(kernels, name), types, integers, self.constants | constants, **options)
            compile_all([kernel], self.device)
            self.kernels[key] = kernel
        kernel(grid, values)

    def _empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the accumulation dtype."""
        return torch.empty(shape, dtype=self.sums, device=self.device)


def _block(size: int) -> int:
    """Return the length of the blocks of an axis: a power of 2 that a matrix product can have."""
    return max(16, min(BLOCK, 1 << (size - 1).bit_length()))


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    """Return the strides of a sequence (directions, b, l, ...) by the names of the kernels' parameters."""
    axes = ("direction", "item", "row", "unit")
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides(tensor), strict=False)}
