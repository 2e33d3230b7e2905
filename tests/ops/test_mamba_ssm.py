"""The adapter to mamba_ssm, against the definition, with a stand-in for that package's function."""

import sys
from types import ModuleType

import pytest
import torch
from scans import assert_equal, directions_problem, directions_results

from nnunet_mamba.blocks import mamba2
from nnunet_mamba.blocks.mamba2 import Mamba2
from nnunet_mamba.ops import mamba_ssm_scan, reference, scan
from nnunet_mamba.scan_order import scan_order


def stand_in(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """mamba_ssm's selective_scan_fn: channels first, forwards; B, C (b, n, l) or (b, g, n, l)."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    u, delta, B, C = (t.transpose(-1, -2) for t in (u, delta, B, C))
    z = None if z is None else z.transpose(-1, -2)
    call = (u, delta, A, B, C, D, z, delta_bias, None, delta_softplus, False)
    return reference.selective_scan_reference(*call).transpose(-1, -2)


def stand_in_of_mamba2(x, dt, A, B, C, chunk_size, D=None, dt_bias=None, dt_softplus=False):
    """mamba_ssm's mamba_chunk_scan_combined: x (b, l, h, p), dt (b, l, h), B, C (b, l, g, n), forwards."""
    assert x.dtype == B.dtype == C.dtype and dt_softplus and chunk_size == 256
    step = torch.nn.functional.softplus(dt + dt_bias)
    values, log_decay = x * step[..., None], step * A
    y = reference.linear_attention_reference(values, log_decay, B, C, None, False)
    return y + D[:, None] * x


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    functions = {
        "selective_scan_interface": {"selective_scan_fn": stand_in},
        "triton.ssd_combined": {"mamba_chunk_scan_combined": stand_in_of_mamba2},
    }
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, content in functions.items():
        module = ModuleType(f"mamba_ssm.ops.{name}")
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(scan, "choose_backend", lambda requested, device: requested or "mamba_ssm")


@pytest.mark.parametrize("order", ["DHW", "-DHW", "bi", "zigzag,-zigzag", "slices,-slices"])
def test_mamba2_by_its_kernels_is_ours(order, monkeypatch):
    """Outputs and all gradients, in every direction."""
    torch.manual_seed(0)
    layer, grid = Mamba2(8, scan_order(order, 3), d_state=3), (2, 3, 4)
    x = torch.randn(2, 24, 8, requires_grad=True)

    def results():
        y = layer(x, grid)
        grads = torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))
        return dict(enumerate((y, *grads)))

    expected = results()
    called = []
    monkeypatch.setattr(
        mamba2, "choose_backend", lambda requested, device: called.append(device) or "mamba_ssm"
    )
    monkeypatch.setattr(scan, "choose_backend", lambda requested, device: "torch")
    assert_equal(results(), expected, 1e-5)
    assert called


@pytest.mark.parametrize("indices", [False, True], ids=["memory order", "permuted"])
@pytest.mark.parametrize("shared", [False, True], ids=["own u", "one u"])
def test_directions_come_back_to_where_they_were(indices, shared):
    arguments, options = directions_problem(
        3, 2, 17, 12, 4, g=2, shared=shared, indices=indices, dtype=torch.float32
    )
    expected = directions_results(arguments, options, "reference")
    assert_equal(directions_results(arguments, options, "mamba_ssm"), expected, 2e-6)


def test_what_the_kernels_do_not_take_is_refused_if_asked_for_and_else_computed_otherwise(monkeypatch):
    monkeypatch.delenv("NNUNET_MAMBA_BACKEND", raising=False)
    arguments, options = directions_problem(1, 1, 5, 4, 3)
    with pytest.raises(ValueError, match="float32 or half precision and at most 256 states"):
        directions_results(arguments, options, "mamba_ssm")
    expected = directions_results(arguments, options, "reference")
    assert_equal(directions_results(arguments, options, None), expected, 1e-12)
    assert not mamba_ssm_scan.is_supported(torch.ones(1), torch.ones(2, 257))
