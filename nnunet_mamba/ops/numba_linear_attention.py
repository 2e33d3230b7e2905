"""Linear attention with decay on CPUs: matrix products in numba loops over rows of SIMD arithmetic.

A task is one batch item and some heads of one group; it goes through the sequence once, in chunks of CHUNK
steps, as `torch_linear_attention` describes, with a chunk's matrices in the first two levels of cache.
Forward keeps the state before every chunk, for backward.

Inputs are read where they lie (any batch and row strides, channels contiguous) in the order of `indices`.
Sums are float64 for float64 inputs, else float32, and deterministic for a given number of threads.

Shapes: b batch, l tokens, h heads of p channels, g groups, n of keys; values, y (b, l, h, p); log_decay (b,
l, h); keys, queries (b, l, g, n).
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from nnunet_mamba.ops.numba_linear_attention_kernels import (
    CHUNK,
    Problem,
    Scratch,
    attend_backward,
    attend_forward,
)
from nnunet_mamba.ops.numba_tasks import Call, readable
from nnunet_mamba.ops.simd import LANES, VECTOR

TAKES_ALL_DIRECTIONS = False


class _AttentionCall(Call):
    """Tensors of one call, in the form that the kernels take."""

    def __init__(self, values, log_decay, keys, queries, indices, reverse: bool):
        (self.batch, self.length, n_heads, self.p), (self.groups, self.n) = values.shape, keys.shape[2:]
        self.group, self.reverse = n_heads // self.groups, reverse
        wanted = max(1, torch.get_num_threads() // (self.batch * self.groups))
        self.block = -(-self.group // wanted)  # heads of a task
        self.blocks = -(-self.group // self.block)
        super().__init__(values, self.batch * self.groups * self.blocks, indices)
        self.values = readable(values.flatten(2), self.dtype)
        self.keys, self.queries = readable(keys, self.dtype), readable(queries, self.dtype)
        self.log_decay = log_decay.detach().to(self.dtype).contiguous().numpy()

    def problem(self, states: Tensor | None, y: Tensor, gradients: tuple[Tensor | None, ...]) -> Problem:
        """Return the call as integers; gradients of values, keys and queries, None in forward."""
        width, depth = (-(-size // LANES) * LANES for size in (self.p, self.n))
        lines = -(-self.block * width // VECTOR)
        pitch = (lines + 1 - lines % 2) * VECTOR  # an odd number of cache lines: rows share no set of a cache
        sizes = (self.batch, self.length, self.values.shape[2], self.p, width, pitch, self.n, depth)
        heads = (self.groups, self.group, self.block, self.blocks)
        place = self.place
        sequences = (*place(self.values, 2), *place(self.keys, 3), *place(self.queries, 3))
        results = (*place(states), *place(y, 2), *(place(t)[0] for t in gradients))
        return Problem(*sizes, *heads, self.size, int(self.reverse), *sequences, *results)

    def scratch(self, p: Problem, for_backward: bool) -> tuple[Scratch, int]:
        """Return the offsets of a thread's matrices, and how many values they hold; forward needs only the
        first."""
        squares = ("products", "decays", "weights", "d_weights", "d_products", "d_products_across")
        of_keys = ("keys", "queries", "keys_across", "queries_across", "through", "d_keys", "d_queries")
        sizes = {
            **dict.fromkeys(Scratch._fields, CHUNK * p.pitch),
            **dict.fromkeys(squares, CHUNK * CHUNK),
            **dict.fromkeys(of_keys, CHUNK * p.depth),
            **dict.fromkeys(("state", "before"), p.n * p.pitch),
        }
        ends = list(accumulate(sizes[name] for name in Scratch._fields))
        scratch = Scratch(*(self.size * start for start in (0, *ends[:-1])))
        return scratch, ends[-1] if for_backward else scratch.queries_across // self.size


def forward(values, log_decay, keys, queries, indices, reverse: bool, states: Tensor | None) -> Tensor:
    """Return y (b, l, h, p) in values' dtype; fill `states`, those before each chunk (b, chunks, n, h p)."""
    call = _AttentionCall(values, log_decay, keys, queries, indices, reverse)
    y = call.empty(*values.shape)
    problem = call.problem(states, y, (None, None, None))
    scratch, size = call.scratch(problem, for_backward=False)
    call.run(attend_forward, size, problem, scratch, call.log_decay)
    return y.to(values.dtype)


def backward(
    dy, values, log_decay, keys, queries, indices, states, reverse: bool, dvalues, dlog_decay, dkeys, dqueries
) -> None:
    """Fill the gradients, each of its input's shape, contiguous and in the accumulation dtype."""
    call = _AttentionCall(values, log_decay, keys, queries, indices, reverse)
    whole = call.blocks == 1
    parts = [t if whole else call.empty(call.blocks, *t.shape) for t in (dkeys, dqueries)]
    dy = readable(dy.flatten(2), call.dtype)
    problem = call.problem(states, dy, (dvalues, *parts))
    scratch, size = call.scratch(problem, for_backward=True)
    call.run(attend_backward, size, problem, scratch, call.log_decay, dlog_decay.numpy())
    if not whole:
        for grad, part in zip((dkeys, dqueries), parts, strict=True):
            torch.sum(part, 0, out=grad)
