"""A bidirectional convolution, scan and linear attention, forward and backward, for Nsight Compute; `small`:
in several shapes, with and without token indices, for compute-sanitizer.

    ncu python benchmarks/gpu/one_scan.py
    compute-sanitizer python benchmarks/gpu/one_scan.py small
"""

import sys

import torch

from nnunet_mamba.ops import (
    multi_directional_conv1d,
    multi_directional_linear_attention,
    multi_directional_scan,
)
from nnunet_mamba.ops.backends import force_backend

SIZES = [(2, 2, 65536, 64, 16)]  # directions, batch, tokens, channels, states
SMALL = [(2, 2, 300, 40, 16), (1, 1, 1, 1, 1), (3, 1, 1000, 33, 5), (2, 1, 77, 100, 20)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", requires_grad=True)


def run(k: int, batch: int, tokens: int, channels: int, states: int, table: bool) -> bool:
    """Run forward and backward and return whether all results are finite."""
    indices = torch.stack([torch.randperm(tokens) for _ in range(k)]).cuda().int() if table else None
    way = {"reverse": [direction % 2 == 1 for direction in range(k)], "indices": indices}
    x, z = random(1, batch, tokens, channels), random(batch, tokens, channels)
    u = multi_directional_conv1d(x, random(k, channels, 4), random(k, channels), "silu", **way)
    A = (-torch.rand(k, channels, states, device="cuda")).requires_grad_()
    B, C = (random(k, batch, 1, tokens, states) for _ in range(2))
    delta, D, bias = random(k, batch, tokens, channels), random(k, channels), random(k, channels)
    y = multi_directional_scan(u, delta, A, B, C, D, z, bias, True, **way)
    log_decay, keys, queries = -delta[..., :1].abs(), B.transpose(2, 3), C.transpose(2, 3)
    y = y + multi_directional_linear_attention(u[..., None, :], log_decay, keys, queries, **way).squeeze(2)
    y.sum().backward()
    torch.cuda.synchronize()
    return bool(y.isfinite().all() and x.grad.isfinite().all())


def main() -> int:
    """Return exit code 1 if something is not finite."""
    small, wrong = "small" in sys.argv, 0
    for size in SMALL if small else SIZES:
        for table in (False, True) if small else (False,):
            with force_backend("triton"):
                finite = run(*size, table)
            wrong += not finite
            way = "permuted" if table else "in memory order"
            print(*size, way, "finite" if finite else "NOT FINITE", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
