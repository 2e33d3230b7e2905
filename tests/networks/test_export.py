"""Networks outside of eager Python: as ONNX, and under DistributedDataParallel."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.blocks.mixers import KINDS
from nnunet_mamba.inference.onnx_export import export_network
from nnunet_mamba.networks.family import supported_ndims
from nnunet_mamba.ops import causal_conv1d, linear_attention, onnx_scan, selective_scan, torch_scan
from nnunet_mamba.scan_order import scan_order

VSS_SIZES = {"features_per_stage": [8, 16, 32, 64], "depths": 1, "drop_path": 0.0}
FIXED = {  # small sizes of the networks whose topology is their own
    "vm_unet": {**VSS_SIZES, "depths_decoder": 1},
    "mamba_unet": {**VSS_SIZES, "depths_decoder": 1},
    "swin_umamba": {**VSS_SIZES, "features_per_stage": [4, 8, 16, 32, 64]},
    "swin_umamba_d": {**VSS_SIZES, "depths_decoder": 1},
    "segmamba": {"features_per_stage": [4, 4, 8, 8], "depths": [1, 1, 1, 1]},
    "segmamba_v2": {"features_per_stage": [8, 8, 8, 16], "depths": [1, 1, 1, 1]},
    "lightm_unet": {"features_per_stage": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "nnmamba": {"features_per_stage": [16, 16, 16, 16], "depths": [1, 2, 2]},
}
GRIDS = {  # no multiples of the strides, so that networks pad, where any grid is one
    "umamba_enc": (8, 8, 8),  # of which weights are
    "xlstm_unet_enc": (16, 16, 16),
    **dict.fromkeys(("segmamba", "segmamba_v2", "nnmamba", "lightm_unet"), (16, 16, 19)),
    **dict.fromkeys(("vm_unet", "mamba_unet", "swin_umamba", "swin_umamba_d"), (0, 32, 40)),
}


def small(name, ndim=None, **options):
    """A small network of that name and the grid of an input; `ndim`: 3, if it takes that many axes."""
    torch.manual_seed(0)
    base, ndim = name.removesuffix("_nossm"), ndim or max(supported_ndims(name))
    grid = GRIDS.get(base, (8, 7, 12))[-ndim:]
    sizes = FIXED.get(base)
    if sizes is None:
        n_stages = 4 if base == "xlstm_unet_enc" else 2  # no mixer in the first three stages
        features = [4 * 2**stage for stage in range(n_stages)]
        steps = [1, *[2] * (n_stages - 1)]
        sizes = {"features_per_stage": features, "strides": [[step] * ndim for step in steps]}
        sizes |= {"kernel_sizes": [[3] * ndim] * n_stages}
    sizes = {**sizes, "input_channels": 1, "num_classes": 3, "patch_size": grid}
    return create_network(name, **{**sizes, **options}), grid


class DirectedScan(nn.Module):
    """A convolution and a scan in reverse; (b, d, l) -> (b, d, l)."""

    def __init__(self, d: int, length: int):
        super().__init__()
        torch.manual_seed(0)
        self.A, self.taps = nn.Parameter(-torch.rand(d, 4)), nn.Parameter(torch.randn(d, 4))
        self.register_buffer("indices", torch.randperm(length, dtype=torch.int32))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        options = {"indices": self.indices, "reverse": True}
        u = causal_conv1d(u, self.taps, None, "silu", **options)
        return selective_scan(u, u.cos(), self.A, u[:, :4], u[:, 4:8], z=u, delta_softplus=True, **options)


class DirectedAttention(nn.Module):
    """Linear attention in reverse, two heads to a group; (b, l, 36) -> (b, l, 4, 4)."""

    def __init__(self, length: int):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("indices", torch.randperm(length, dtype=torch.int32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        values, log_decay, keys, queries = rows.split([16, 4, 8, 8], dim=-1)
        grouped = (t.unflatten(-1, (2, 4)) for t in (keys, queries))
        values, log_decay = values.unflatten(-1, (4, 4)), -log_decay.square()
        return linear_attention(values, log_decay, *grouped, indices=self.indices, reverse=True)


class Reordered(nn.Module):
    """Tokens in the orders that are no rasters; (b, c, *grid) -> (orders, b, c, l)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        directions = scan_order("windows,zigzag,diagonal,interleave8", 3)
        orders = [direction.token_indices(tuple(x.shape[2:])) for direction in directions]
        return torch.stack([x.flatten(2)[..., order.long()] for order in orders])


def assert_equal_as_onnx(network, x, path):
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
    export_network(network.eval(), x, path)
    (actual,) = runtime.InferenceSession(path).run(None, {"image": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_the_recurrence_that_is_exported_is_that_of_the_torch_backend(length):
    torch.manual_seed(0)
    decay, drive = torch.rand(2, length, 3, 4).double(), torch.randn(2, length, 3, 4).double()
    start = torch.randn(2, 3, 4).double()
    expected = torch_scan.linear_scan(decay, drive, start)
    torch.testing.assert_close(onnx_scan.linear_scan(decay, drive, start), expected)


@pytest.mark.parametrize("length", [300, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 20000))])
def test_a_scan_is_the_same_in_onnx(length, tmp_path):
    path = tmp_path / "scan.onnx"
    assert_equal_as_onnx(DirectedScan(8, length), torch.randn(2, 8, length), path)
    n_nodes = len(pytest.importorskip("onnx").load(path, load_external_data=False).graph.node)
    assert n_nodes < 100, "the graph must not grow with the sequence"


def test_tokens_have_the_same_order_in_onnx(tmp_path):
    assert_equal_as_onnx(Reordered(), torch.randn(1, 2, 5, 6, 9), tmp_path / "orders.onnx")


def test_linear_attention_is_the_same_in_onnx(tmp_path):
    path = tmp_path / "attention.onnx"
    assert_equal_as_onnx(DirectedAttention(300), torch.randn(2, 300, 36), path)
    n_nodes = len(pytest.importorskip("onnx").load(path, load_external_data=False).graph.node)
    assert n_nodes < 100, "the graph must not grow with the sequence"


@torch.no_grad()
def move_weights(network):
    """From where they were initialised: residual branches may start at zero, which would hide them."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return network


FAST = {  # one of each mechanism: convolutions, scans, linear attention, attention, and the mLSTM
    *(("nnunet", 3), ("mm_unet", 3), ("umamba2", 3), ("umamba_bot:attention", 3), ("umamba_bot:mlstm", 3)),
}
EXPORTED = [
    *((name, ndim) for name in list_networks() for ndim in supported_ndims(name)),
    *((f"umamba_bot:{word}", ndim) for word in (*KINDS, "conv", "none") for ndim in (2, 3)),
    *((f"umamba_enc:{word}", 3) for word in ("mlstm", "conv")),  # channels are tokens
    ("lkm_unet:windows=nearest", 3),
]


@pytest.mark.parametrize(
    ("name", "ndim"),
    [pytest.param(*row, marks=() if row in FAST else pytest.mark.slow) for row in EXPORTED],
)
def test_every_network_is_the_same_in_onnx(name, ndim, tmp_path):
    name, _, word = name.partition(":")
    setting, _, value = word.rpartition("=")
    network, grid = small(name, ndim, **({setting or "mixer": value} if word else {}))
    assert_equal_as_onnx(move_weights(network), torch.randn(1, 1, *grid), tmp_path / "network.onnx")


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", ["mm_unet", "umamba_enc", "vm_unet", "swin_umamba_d"])
def test_trains_under_ddp_as_nnunet_sets_it_up(name):
    """Its second step stops with an error if a parameter got no gradient in the first."""
    network, grid = small(name, deep_supervision=True)
    parallel = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(parallel.parameters(), 1e-2, momentum=0.99, nesterov=True)
    for _ in range(2):
        optimizer.zero_grad()
        sum(y.square().mean() for y in parallel(torch.randn(2, 1, *grid))).backward()
        optimizer.step()
    assert all(p.grad is not None and p.isfinite().all() for p in network.parameters())
