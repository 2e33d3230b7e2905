"""Linear attention with decay in matrix products, for any device [1, sec. 6].

Within a chunk of CHUNK tokens, with G_t the sum of log_decay up to t and M_ts = exp(G_t - G_s) for s <= t:

    y = ((Q K^T) * M) V + exp(G) Q S,    S_next = exp(G_last) S + K^T (exp(G_last - G) V)

Many chunks are computed at once, in blocks that bound the memory; the states between them go one by one.
Backward recomputes all but the states, and goes through the blocks from the last. Sums of log_decay are
float64 where the device has it, since their differences would lose digits.

b batch, m chunks of a block, g groups, r heads per group, c = CHUNK tokens; p channels, n of keys. `states`
(b, chunks, n, h p) holds the state before each chunk.

[1] Dao and Gu, Transformers are SSMs, arXiv:2405.21060.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_mamba.ops.constants import LINEAR_CHUNKS
from nnunet_mamba.ops.precision import accumulation_dtype, finest_dtype
from nnunet_mamba.ops.reference import scan_indices

TAKES_ALL_DIRECTIONS = False
CHUNK = LINEAR_CHUNKS["torch"]
BLOCK_VALUES = 1 << 20  # of the largest matrices of a block
FORGOTTEN = -1000.0  # the logarithm of a decay that is zero in any dtype; less would cost digits of the sums


class _Block(NamedTuple):
    """Some chunks in the order of the scan, padded with zeros at the end, in the accumulation dtype."""

    tokens: Tensor  # (at most m c,)
    chunks: slice
    values: Tensor  # (b, m, g, r, c, p)
    keys: Tensor  # (b, m, g, 1, c, n), as are queries
    queries: Tensor
    decay: Tensor  # M (b, m, g, r, c, c)
    from_start: Tensor  # exp(G) (b, m, g, r, c, 1)
    to_end: Tensor  # exp(G_last - G) (b, m, g, r, c, 1)

    @property
    def through(self) -> Tensor:
        """Return exp(G_last), the decay over each whole chunk (b, m, g, r, 1, 1)."""
        return self.from_start[..., -1:, :]

    def carry(self, own: Tensor, first: Tensor, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """Return the states before each chunk, from what each adds, and the state after all.

        Shape: own, states (b, m, g, r, n, p), first (b, g, r, n, p). `backwards`: from the last chunk.
        """
        before, state, through = torch.empty_like(own), first, self.through
        for chunk in reversed(range(own.shape[1])) if backwards else range(own.shape[1]):
            before[:, chunk] = state
            state = torch.addcmul(own[:, chunk], through[:, chunk], state)
        return before, state

    def put(self, sequence: Tensor, target: Tensor) -> None:
        """Write (b, m, g, r, c, p) to the tokens of (b, l, h, p); (b, m, g, 1, c, n) likewise."""
        merged = sequence.movedim(4, 2).flatten(3, 4).flatten(1, 2)
        target[:, self.tokens] = merged[:, : len(self.tokens)].to(target.dtype)


def _blocks(values, log_decay, keys, queries, indices, reverse: bool, last_first: bool = False):
    """Yield the blocks of a call and, within each, `gather` of sequences of the same kind as values."""
    (b, length, h, p), n = values.shape, keys.shape[3]
    order = scan_indices(length, indices, reverse, values.device)
    chunks = -(-length // CHUNK)
    step = max(1, BLOCK_VALUES // (b * h * CHUNK * max(CHUNK, p, n)))
    starts = range(0, chunks, step)
    for start in reversed(starts) if last_first else starts:
        part = slice(start, min(start + step, chunks))
        yield _block(values, log_decay, keys, queries, order[part.start * CHUNK : part.stop * CHUNK], part)


def _gather(sequence: Tensor, tokens: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Return tokens of (b, l, heads, channels) as (b, m, groups, heads per group, c, channels)."""
    chosen = F.pad(sequence[:, tokens].to(dtype), (0, 0, 0, 0, 0, -len(tokens) % CHUNK))
    return chosen.unflatten(1, (-1, CHUNK)).unflatten(3, (groups, -1)).movedim(2, 4).contiguous()


def _block(values, log_decay, keys, queries, tokens: Tensor, chunks: slice) -> _Block:
    """Gather the inputs of a block and compute its decays."""
    work, groups = accumulation_dtype(values), keys.shape[2]
    fine = finest_dtype(values.device)
    logs = _gather(log_decay[..., None], tokens, groups, fine).clamp(min=FORGOTTEN)
    total = logs.cumsum(-2)
    decay = torch.empty(*total.shape[:-1], CHUNK, dtype=work, device=values.device)
    torch.sub(total, total.mT, out=decay)
    future = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=values.device).triu(1)
    return _Block(
        tokens,
        chunks,
        _gather(values, tokens, groups, work),
        _gather(keys, tokens, groups, work),
        _gather(queries, tokens, groups, work),
        decay.masked_fill_(future, -torch.inf).exp_(),
        total.exp().to(work),
        (total[..., -1:, :] - total).exp().to(work),
    )


def _zero_state(values: Tensor, keys: Tensor) -> Tensor:
    """Return the state before the first token (b, g, r, n, p)."""
    (b, _, h, p), (g, n) = values.shape, keys.shape[2:]
    return values.new_zeros(b, g, h // g, n, p, dtype=accumulation_dtype(values))


def forward(values, log_decay, keys, queries, indices, reverse: bool, states: Tensor | None) -> Tensor:
    """Return y (b, l, h, p) in values' dtype; fill `states`, those before each chunk (b, chunks, n, h p)."""
    y = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    state = _zero_state(values, keys)
    with torch.autocast(values.device.type, enabled=False):
        for block in _blocks(values, log_decay, keys, queries, indices, reverse):
            own = block.keys.mT @ (block.values * block.to_end)
            before, state = block.carry(own, state)
            weights = (block.queries @ block.keys.mT) * block.decay
            block.put(weights @ block.values + (block.queries @ before) * block.from_start, y)
            if states is not None:
                states[:, block.chunks] = before.movedim(4, 2).flatten(3)
    return y


def backward(
    dy, values, log_decay, keys, queries, indices, states, reverse: bool, dvalues, dlog_decay, dkeys, dqueries
) -> None:
    """Fill the gradients, each of its input's shape and in the accumulation dtype."""
    later = _zero_state(values, keys)  # the gradient of the state after a block
    with torch.autocast(values.device.type, enabled=False):
        for block in _blocks(values, log_decay, keys, queries, indices, reverse, last_first=True):
            groups = block.values.shape[2:4]
            dout = _gather(dy, block.tokens, groups[0], block.values.dtype)
            before = states[:, block.chunks].unflatten(-1, (*groups, -1)).movedim(2, 4)
            own = block.queries.mT @ (dout * block.from_start)
            after, later = block.carry(own, later, backwards=True)
            _put_gradients(block, dout, before, after, dvalues, dlog_decay, dkeys, dqueries)


def _put_gradients(
    block: _Block, dout: Tensor, before: Tensor, after: Tensor, dvalues, dlog_decay, dkeys, dqueries
) -> None:
    """Write the gradients of a block, given the states before its chunks and the gradients of those after."""
    products = block.queries @ block.keys.mT  # (b, m, g, 1, c, c)
    d_weights = (dout @ block.values.mT) * block.decay  # the gradients of `products`, head by head
    block.put((products * block.decay).mT @ dout + (block.keys @ after) * block.to_end, dvalues)
    d_products = d_weights.sum(3, keepdim=True)
    through_queries = (dout * block.from_start) @ before.mT
    through_keys = (block.values * block.to_end) @ after.mT
    block.put(d_products @ block.keys + through_queries.sum(3, keepdim=True), dqueries)
    block.put(d_products.mT @ block.queries + through_keys.sum(3, keepdim=True), dkeys)
    block.put(
        _of_decay(block, d_weights.mul_(products), through_queries, through_keys, before, after),
        dlog_decay[..., None],
    )


def _of_decay(
    block: _Block, pairs: Tensor, through_queries: Tensor, through_keys: Tensor, before: Tensor, after: Tensor
) -> Tensor:
    """Return the gradients of log_decay (b, m, g, r, c, 1): at each token, that of all that passes it.

    `pairs` (b, m, g, r, c, c) is what each token gives to each within the chunk, times its gradient.
    """
    pairs = pairs.tril_(-1)
    out = (through_queries * block.queries).sum(-1) + pairs.sum(-1)  # ends at or after the token
    into = (through_keys * block.keys).sum(-1)  # begins before it and leaves the chunk
    out = (out - pairs.sum(-2)).flip(-1).cumsum(-1).flip(-1)
    whole = (before * after).sum((-1, -2)) * block.through[..., 0, 0]
    return (out + into.cumsum(-1) - into + whole[..., None])[..., None]
