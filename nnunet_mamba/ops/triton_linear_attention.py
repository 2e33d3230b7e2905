"""Linear attention with decay on NVIDIA GPUs: plans of calls of one kind, and launches of
`triton_linear_attention_kernels`.

Shapes: k directions, b batch, l tokens, h heads of p channels, g groups, n states; values (k or 1, b, l, h,
p); log_decay (k, b, l, h); keys, queries (k, b, l, g, n); indices (k, l); y (b, l, h, p); states (k, b,
chunks, n, h p); `reverse`, one bool per direction.
"""

from __future__ import annotations

from collections.abc import Sequence
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
BLOCK = {torch.float32: 64, torch.float64: 32}  # of p and of n, at most, by the type of sums
CARRY_BLOCK = 64
AT_ONCE = 4  # programs of a multiprocessor that share a group's heads
WARPS = {"chunk_states": 4, "carry_states": CARRY_BLOCK // 32, "outputs": 4, "key_gradients": 8}
INPUTS = ("values", "log_decay", "keys", "queries", "indices")
BACKWARD = {"values": "dy", "keys": "queries", "queries": "keys"}  # what stands for them where time runs back
_plans: dict[Any, LinearAttentionPlan] = {}


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
        dvalues, *others = plan.backward(inputs, dy.to(values.dtype).contiguous().flatten(2)[None], states)
    return dvalues.view(values.shape), *others


def _laid_out(values, log_decay, keys, queries, indices) -> tuple[Tensor | None, ...]:
    """Return the tensors as the kernels read them, values (k or 1, b, l, h p): last axes are contiguous."""
    rows = (row_contiguous(t) for t in (values.flatten(3), log_decay, keys, queries))
    return *rows, None if indices is None else indices.contiguous()


class LinearAttentionPlan:
    """Plan of calls of the same shapes, strides and types: kernels, integers and grids."""

    def __init__(self, inputs: Sequence[Tensor | None], _: bool, reverse: Sequence[bool]):
        values, log_decay, keys, queries, _indices = inputs
        assert values is not None and log_decay is not None and keys is not None and queries is not None
        self.directions, self.batch, self.length, self.heads = log_decay.shape
        self.slots, self.channels = len(values), values.shape[3]
        self.groups, self.n, self.p = keys.shape[3], keys.shape[4], self.channels // self.heads
        self.dtype, self.sums, self.device = values.dtype, accumulation_dtype(values), values.device
        self.chunks = -(-self.length // CHUNK)
        p_block, n_block = (_block(size, BLOCK[self.sums]) for size in (self.p, self.n))
        self.p_blocks, self.n_blocks = -(-self.p // p_block), -(-self.n // n_block)
        self.shares = self._shares()
        self.integers = {
            **{"length": self.length, "chunks": self.chunks, "heads": self.heads, "groups": self.groups},
            **{"p": self.p, "n": self.n, "p_blocks": self.p_blocks, "n_blocks": self.n_blocks},
            **{"shares": self.shares, "batch": self.batch, "first": 0},
            "reverse": sum(1 << direction for direction, is_reversed in enumerate(reverse) if is_reversed),
            "blocks": -(-self.n * self.channels // CARRY_BLOCK),
        }
        widest = max(self.channels, *(t.stride(2) for t in (values, log_decay, keys, queries)))
        self.constants = {
            **{"CHUNK": CHUNK, "P": p_block, "N": n_block, "BLOCK": CARRY_BLOCK},
            "ACC": tl.float64 if self.sums == torch.float64 else tl.float32,
            "INDEX": index_type(self.length * widest),
        }
        self.strides = {
            **_strides("values", values),
            **_strides("decay", log_decay),
            **_strides("keys", keys),
            **_strides("queries", queries),
        }
        self.types = {name: None if t is None else t.dtype for name, t in zip(INPUTS, inputs, strict=True)}
        self.kernels: dict[tuple[Any, ...], Kernel] = {}

    def _shares(self) -> int:
        """Return the number of parts of a group's heads whose gradients of keys are summed at the end."""
        programs = self.chunks * self.batch * self.directions * self.groups * self.n_blocks
        wanted = AT_ONCE * processors(self.device)
        return min(self.heads // self.groups, -(-wanted // programs))

    def _prepare(self, *names: tuple[Any, ...]) -> None:
        """Compile the kernels of these names that are not yet."""
        for name in names:
            if name not in self.kernels:
                self.kernels[name] = self._kernel(*name)
        compile_all([self.kernels[name] for name in names], self.device)

    def _kernel(self, name: str, backward: bool, add: bool = False) -> Kernel:
        """Return one of the kernels, of which `backward` and `add` are constants."""
        of_sums = ("states", "totals", "ends", "dlog_decay", "dkeys", "dqueries")
        types = {**self.types, **dict.fromkeys(of_sums, self.sums), "dy": self.dtype}
        types["y"] = self._output_type(self.slots if backward else 1)
        if backward and name != "key_gradients":
            types |= {own: types[other] for own, other in BACKWARD.items()}
        integers = {**self.integers, **self.strides, "from_end": 0}
        constants = {**self.constants, "BACKWARD": backward, "ADD": add}
        options = {"num_warps": WARPS[name], "num_stages": 1, "enable_fp_fusion": True}
        return Kernel(getattr(kernels, name), types, integers, constants, **options)

    def _output_type(self, slots: int) -> torch.dtype:
        """Return the dtype of an output: that of sums if several directions add up to it."""
        return self.dtype if slots == self.directions else self.sums

    def forward(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        values = {**self.integers, **self.strides, **dict(zip(INPUTS, inputs, strict=True))}
        states = self._states(values, backward=False)
        return self._outputs({**values, "states": states}, 1, backward=False).to(self.dtype), states

    def backward(
        self, inputs: Sequence[Tensor | None], dy: Tensor, states: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = {**self.integers, **self.strides, **dict(zip(INPUTS, inputs, strict=True)), "dy": dy}
        reversed_roles = dict(values)
        for own, other in BACKWARD.items():
            reversed_roles |= {own: values[other], **_strides(own, values[other])}
        ends = self._states(reversed_roles, backward=True)
        dvalues = self._outputs({**reversed_roles, "states": ends}, self.slots, backward=True)
        return dvalues, *self._key_gradients({**values, "states": states, "ends": ends})

    def _states(self, values: dict[str, Any], backward: bool) -> Tensor:
        """Return the states before the chunks, or the gradients of those at their ends."""
        own, carry = ("chunk_states", backward), ("carry_states", False)
        self._prepare(own, carry)
        places = (self.directions, self.batch, self.chunks)
        states, totals = self._empty(*places, self.n, self.channels), self._empty(*places, self.heads)
        values = {**values, "states": states, "totals": totals, "from_end": backward}
        blocks = self.heads * self.p_blocks * self.n_blocks
        self.kernels[own]((self.chunks * self.batch, blocks, self.directions), values)
        self.kernels[carry]((values["blocks"] * self.batch, self.directions, 1), values)
        return states

    def _outputs(self, values: dict[str, Any], slots: int, backward: bool) -> Tensor:
        """Return outputs (slots, b, l, h p): all directions at once, or one after the other into one slot."""
        at_once = self.directions if slots == self.directions else 1
        self._prepare(*(("outputs", backward, add) for add in (False, True)[: 1 + (self.directions > at_once)]))
        y = torch.empty(
            (slots, self.batch, self.length, self.channels), dtype=self._output_type(slots), device=self.device
        )
        grid = (self.chunks * self.batch, self.heads * self.p_blocks, at_once)
        for first in range(0, self.directions, at_once):
            self.kernels["outputs", backward, first > 0](grid, {**values, "first": first, "y": y})
        return y

    def _key_gradients(self, values: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of log_decay, keys and queries, their parts summed in a fixed order."""
        self._prepare(("key_gradients", True))
        tokens = (self.batch, self.length)
        parts = {
            "dlog_decay": self._empty(self.directions, self.n_blocks, *tokens, self.heads),
            "dkeys": self._empty(self.directions, self.shares, *tokens, self.groups, self.n),
            "dqueries": self._empty(self.directions, self.shares, *tokens, self.groups, self.n),
        }
        grid = (self.chunks * self.batch, self.groups * self.shares * self.n_blocks, self.directions)
        self.kernels["key_gradients", True](grid, {**values, **parts})
        dlog_decay, dkeys, dqueries = (t[:, 0] if t.shape[1] == 1 else t.sum(1) for t in parts.values())
        return dlog_decay, dkeys, dqueries

    def _empty(self, *shape: int) -> Tensor:
        """Return an uninitialised tensor in the accumulation dtype."""
        return torch.empty(shape, dtype=self.sums, device=self.device)


def _block(size: int, most: int) -> int:
    """Return the length of the blocks of an axis: a power of 2 that a matrix product can have."""
    return max(16, min(most, 1 << (size - 1).bit_length()))


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    """Return the strides of a sequence (directions, b, l, ...) by the names of the kernels' parameters."""
    axes = ("direction", "item", "row", "group")
    return {f"{name}_{axis}": stride for axis, stride in zip(axes, strides(tensor), strict=False)}
