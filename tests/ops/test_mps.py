"""Apple's GPUs (device type mps), of which none is here: the backend, and that nothing needs float64."""

import logging

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunet_mamba import create_network, list_networks
from nnunet_mamba.blocks import mlstm
from nnunet_mamba.networks.family import supported_ndims
from nnunet_mamba.ops import torch_linear_attention
from nnunet_mamba.ops.backends import ENVIRONMENT, choose_backend, force_backend
from nnunet_mamba.ops.linear_attention import multi_directional_linear_attention
from nnunet_mamba.ops.precision import finest_dtype
from nnunet_mamba.ops.scan import multi_directional_conv1d, multi_directional_scan


class Float64Finder(TorchDispatchMode):
    """Collects the operations that return float64, below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(result)):
            self.found.add(str(func))
        return result


@pytest.fixture
def without_float64(monkeypatch) -> Float64Finder:
    """Let every device be one without float64."""
    for module in (mlstm, torch_linear_attention):
        monkeypatch.setattr(module, "finest_dtype", lambda device: torch.float32)
    return Float64Finder()


def test_the_torch_backend_is_chosen_without_a_warning(monkeypatch, caplog):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with caplog.at_level(logging.WARNING):
        assert choose_backend(None, "mps") == "torch"
    assert not caplog.records
    with pytest.raises(
        ValueError, match=r"'numba' runs on cpu, but the tensors are on mps; 'torch' runs on any"
    ):
        choose_backend("numba", "mps")


def test_float32_is_the_finest_there():
    assert finest_dtype(torch.device("mps")) == torch.float32
    assert finest_dtype(torch.device("cpu")) == finest_dtype(torch.device("cuda")) == torch.float64


def sequences(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).requires_grad_()


def scan(backend: str) -> Tensor:
    u, B, A = sequences(2, 1, 70, 8), sequences(2, 1, 1, 70, 4), -sequences(2, 8, 4).abs()
    return multi_directional_scan(u, u.abs(), A, B, B, reverse=[False, True], backend=backend)


def convolution(backend: str) -> Tensor:
    return multi_directional_conv1d(
        sequences(1, 1, 70, 8), sequences(1, 8, 4), reverse=[True], backend=backend
    )


def attention(backend: str) -> Tensor:
    values, keys, decay = (
        sequences(1, 1, 300, 2, 4),
        sequences(1, 1, 300, 1, 6),
        -sequences(1, 1, 300, 2).abs(),
    )
    return multi_directional_linear_attention(values, decay, keys, keys, reverse=[False], backend=backend)


@pytest.mark.parametrize("operator", [scan, convolution, attention])
def test_operators_run_without_float64_and_agree(without_float64, operator):
    with without_float64:
        y = operator("torch")
        y.sum().backward()
    assert without_float64.found == set()
    torch.testing.assert_close(y, operator("reference"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, {}) for name in list_networks() if not name.endswith("_nossm")),
        *(("mm_unet", {"mixer": mixer}) for mixer in ("mamba2", "mlstm", "attention")),
    ],
    ids=str,
)
def test_networks_run_without_float64(without_float64, name, words):
    ndim = max(supported_ndims(name))
    patch = (64,) * 3 if ndim == 3 else (224,) * 2
    with torch.device("meta"):
        network = create_network(name, input_channels=1, num_classes=3, patch_size=patch, **words)
        image = torch.randn(1, 1, *patch)
    with without_float64, torch.no_grad():
        network(image)
    assert without_float64.found == set()


def test_the_matrix_memory_of_mlstm_agrees_in_float32(without_float64):
    q, k, v = (sequences(1, 200, 2, 4) for _ in range(3))
    gates = sequences(1, 200, 2), sequences(1, 200, 2) + 3
    with force_backend("torch"):
        single = mlstm.matrix_memory(q, k, v, *gates)
        double = mlstm.matrix_memory(*(t.double() for t in (q, k, v, *gates)))
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)
