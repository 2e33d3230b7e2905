"""Networks outside of eager Python: as ONNX, and under DistributedDataParallel."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_mamba import create_network
from nnunet_mamba.ops import causal_conv1d, linear_attention, onnx_scan, selective_scan, torch_scan
from nnunet_mamba.scan_order import scan_order

META_SIZES = {
    "features_per_stage": [4, 8],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "kernel_sizes": [[3, 3, 3]] * 2,
}
VSS_SIZES = {"features_per_stage": [8, 16, 32, 64], "depths": 1, "depths_decoder": 1, "drop_path": 0.0}
SMALL = {  # one of each kind of mixer
    "mm_unet": (META_SIZES, (8, 8, 12)),
    "umamba_bot": (META_SIZES, (8, 8, 12)),
    "umamba_enc": ({**META_SIZES, "patch_size": [4, 4, 4]}, (4, 4, 4)),  # scans channels, too
    "mamba_bi": ({**META_SIZES, "d_state": 8}, (8, 8, 12)),
    "vm_unet": (VSS_SIZES, (32, 40)),
    "swin_umamba_d": (VSS_SIZES, (32, 40)),
}


def small(name, **options):
    torch.manual_seed(0)
    sizes, grid = SMALL[name]
    return create_network(name, input_channels=1, num_classes=3, **sizes, **options), grid


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
    torch.onnx.export(network.eval(), (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (actual,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
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


@pytest.mark.parametrize(
    "name",
    [
        "mm_unet",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in SMALL
            if name not in ("mm_unet", "swin_umamba_d")
        ),
    ],
)
def test_a_network_is_the_same_in_onnx(name, tmp_path):
    network, grid = small(name)
    assert_equal_as_onnx(network, torch.randn(1, 1, *grid), tmp_path / "network.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["umamba_enc", "mamba_bi"])
def test_convolutions_in_the_places_of_mixers_are_the_same_in_onnx(name, tmp_path):
    network, grid = small(name, mixer="conv")
    assert_equal_as_onnx(network, torch.randn(1, 1, *grid), tmp_path / "network.onnx")


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
