"""The adapter to mamba_ssm, against the definition, with a stand-in for that package's function."""

import sys
from types import ModuleType

import pytest
import torch
from scans import assert_equal, directions_problem, directions_results

from nnunet_mamba.ops import mamba_ssm_scan, reference, scan


def stand_in(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """mamba_ssm's selective_scan_fn: channels first, forwards; B, C (b, n, l) or (b, g, n, l)."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    u, delta, B, C = (t.transpose(-1, -2) for t in (u, delta, B, C))
    z = None if z is None else z.transpose(-1, -2)
    call = (u, delta, A, B, C, D, z, delta_bias, None, delta_softplus, False)
    return reference.selective_scan_reference(*call).transpose(-1, -2)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    interface = sys.modules["mamba_ssm.ops.selective_scan_interface"]
    monkeypatch.setattr(interface, "selective_scan_fn", stand_in, raising=False)
    monkeypatch.setattr(scan, "choose_backend", lambda requested, device: requested or "mamba_ssm")


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
