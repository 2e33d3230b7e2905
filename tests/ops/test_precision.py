"""What half precision may and may not do to a mixer."""

import copy

import pytest
import torch
from torch import nn

from nnunet_mamba.blocks import mamba, mamba2
from nnunet_mamba.blocks.large_kernel import LargeKernelMixer
from nnunet_mamba.blocks.mamba_trans import MambaTransMixer
from nnunet_mamba.blocks.mixers import LAYERS, ChannelMixer, VoxelMixer, outputs_of
from nnunet_mamba.blocks.vss import SS2D
from nnunet_mamba.ops.precision import (
    FLOAT16_LIMIT,
    PRECISIONS,
    SequenceMixer,
    clamp_for_matmul,
    clamp_to_float16,
    set_mixer_precision,
    with_mixer_precision,
)


class Huge(SequenceMixer):
    @with_mixer_precision
    def forward(self, x):
        assert x.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
        return x * 1e6


def test_float16_leaves_within_its_range():
    y = Huge()(torch.tensor([1.0, -1.0, 1e-4], dtype=torch.float16))
    assert y.dtype == torch.float16
    assert y.abs().max() == FLOAT16_LIMIT
    assert y[2] == pytest.approx(100, rel=1e-2)


def test_float16_autocast_limits_float32_features_too():
    """The next convolution would cast them to float16."""
    with torch.autocast("cpu", dtype=torch.float16):
        assert Huge()(torch.ones(1)).item() == FLOAT16_LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_left_alone(dtype):
    assert Huge()(torch.ones(1, dtype=dtype)).item() == pytest.approx(1e6, rel=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Huge()(torch.ones(1, dtype=dtype)).item() == pytest.approx(1e6, rel=1e-2)


def test_nan_is_not_hidden():
    assert Huge()(torch.tensor([torch.nan], dtype=torch.float16)).isnan().all()


def test_infinities_of_float16_become_its_largest_number_and_nan_stays():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0])
    assert clamp_to_float16(x.half()).tolist()[:2] == [65504.0, -65504.0]
    assert clamp_to_float16(x.half())[2].isnan()
    assert torch.equal(clamp_to_float16(x[[0, 1, 3]]), x[[0, 1, 3]])


def test_what_a_matrix_product_rounds_to_float16_is_clamped_before():
    x = torch.tensor([1e6, -1e6, 1.0], requires_grad=True)
    assert torch.equal(clamp_for_matmul(x), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(clamp_for_matmul(x), x)
    with torch.autocast("cpu", dtype=torch.float16):
        assert clamp_for_matmul(x).tolist() == [65504.0, -65504.0, 1.0]


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="mixer_precision is 'half'; choose one of 'float32', 'mixed'"):
        set_mixer_precision(Huge(), "half")


def outputs_and_gradients(mixer, x, dtype):
    """Of the mixer in an autocast region of `dtype`, in float64 without one where it is that."""
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    if dtype == torch.float64:
        y = mixer(x)
    else:
        with torch.autocast("cpu", dtype=dtype):
            y = mixer(x)
    wanted = dict(mixer.named_parameters()) | {"x": x}
    grads = torch.autograd.grad(y, list(wanted.values()), dy.to(y.dtype))
    return {"y": y, **dict(zip(wanted, grads, strict=True))}


LOCAL = "conv"  # convolutions with as many parameters, in the place of mamba


def voxel_mixer(kind, mixer_output="residual"):
    options = {"local": True} if kind == LOCAL else {"kind": kind}
    return VoxelMixer(16, 3, order="bi", mixer_output=mixer_output, **options)


def large_kernel_mixer():
    return LargeKernelMixer(16, 3, level=1, windows="whole")


MIXERS = {
    **{kind: lambda kind=kind: voxel_mixer(kind) for kind in (*LAYERS, LOCAL)},
    "large_kernel": large_kernel_mixer,
    "channels": lambda: ChannelMixer(16, (4, 5, 6)),
    "mamba_trans": lambda: MambaTransMixer(16, 3, order="bi", d_state=16),
    "visual": lambda: ChannelsFirst(SS2D(16, order="multi")),
}
TOLERANCES = {  # of a tensor's largest value; what leaves is rounded to autocast's type at most once more
    ("float32", torch.float16): 2e-4,
    ("float32", torch.bfloat16): 2e-4,
    ("mixed", torch.float16): 2e-2,
    ("mixed", torch.bfloat16): 1e-1,
}


@pytest.mark.parametrize("kind", MIXERS)
@pytest.mark.parametrize(("precision", "dtype"), TOLERANCES)
def test_mixers_under_autocast_are_as_exact_as_their_precision_says(kind, precision, dtype):
    torch.manual_seed(0)
    mixer, x = MIXERS[kind](), torch.randn(2, 16, 4, 5, 6).requires_grad_()
    set_mixer_precision(mixer, precision)
    found = outputs_and_gradients(mixer, x, dtype)
    exact = outputs_and_gradients(
        copy.deepcopy(mixer).double(), x.detach().double().requires_grad_(), torch.float64
    )
    for name, truth in exact.items():
        off = (found[name] - truth).abs().max() / truth.abs().max()
        assert off < TOLERANCES[precision, dtype], (name, off)


def test_mixed_precision_stores_half_and_scans_in_float32(monkeypatch):
    seen = {}

    def scan(u, delta, A, B, C, D, z, *_, **__):
        seen.update(half={t.dtype for t in (u, delta, B, C, z)}, single={t.dtype for t in (A, D)})
        return torch.zeros_like(z)

    monkeypatch.setattr(mamba, "multi_directional_scan", scan)
    mixer = VoxelMixer(16, 3)
    for precision, expected in (("float32", torch.float32), ("mixed", torch.bfloat16)):
        set_mixer_precision(mixer, precision)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixer(torch.randn(1, 16, 4, 4, 4))
        assert seen == {"half": {expected}, "single": {torch.float32}}


def scale(module: nn.Module, **factors: float) -> nn.Module:
    """The module, its parameters whose names end so multiplied."""
    with torch.no_grad():
        for ending, factor in factors.items():
            found = [p for name, p in module.named_parameters() if name.endswith(ending.replace("__", "."))]
            assert found
            for parameter in found:
                parameter.mul_(factor)
    return module


ENDS = {  # first and last projections
    "mamba": ("in_proj", "out_proj"),
    "mamba2": ("in_proj", "out_proj"),
    "mlstm": ("proj_up", "proj_down"),
    "attention": ("qkv", "attention.proj"),
    "large_kernel": ("in_proj", "out_proj"),
    LOCAL: ("in_proj", "out_proj"),
}
FACTORS = {"weak in": (300, 1), "strong in": (1000, 1), "out": (1, 2e4), "both": (1000, 2e4)}


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_exploding_projections_leave_mixers_of_all_kinds_finite(kind, factors, precision):
    """Whatever the mixer returns, also through its own norm and with float16 in."""
    for mixer_output in outputs_of("mamba", local=True) if kind == LOCAL else outputs_of(kind):
        torch.manual_seed(0)
        mixer = large_kernel_mixer() if kind == "large_kernel" else voxel_mixer(kind, mixer_output)
        scale(mixer, **{f"{name}.weight": factor for name, factor in zip(ENDS[kind], factors, strict=True)})
        set_mixer_precision(mixer, precision)
        x = torch.randn(1, 16, 4, 4, 4)
        with torch.autocast("cpu", dtype=torch.float16):
            assert mixer(x).isfinite().all(), mixer_output
            assert mixer(x.half()).isfinite().all(), mixer_output


def test_walks_of_mamba_2s_own_kernels_may_exceed_float16_with_different_signs(monkeypatch):
    """Their sum is float32, and an infinity less another would be NaN."""
    signs = iter((1, -1))
    monkeypatch.setattr(mamba2, "choose_backend", lambda *_: "mamba_ssm")
    monkeypatch.setattr(mamba2, "mamba2_scan", lambda x, *_: torch.full_like(x, next(signs) * torch.inf))
    mixer = voxel_mixer("mamba2")
    set_mixer_precision(mixer, "mixed")
    with torch.autocast("cpu", dtype=torch.float16):
        assert mixer(torch.randn(1, 16, 4, 4, 4)).isfinite().all()


def test_all_kinds_of_layers_are_tested():
    assert {*LAYERS, "large_kernel", LOCAL} == {*ENDS} and {*ENDS} <= {*MIXERS}


EXPLODE = {"out_proj__weight": 2e5, "D": 1e3}  # weights that float16 can hold
EXPLODING = {
    "projection out": lambda: scale(VoxelMixer(16, 3), **EXPLODE),
    "scan": lambda: scale(VoxelMixer(16, 3), D=1e6),
    "several scans": lambda: scale(VoxelMixer(16, 3, order="slices,DHW"), D=1e6),
    "before a norm": lambda: scale(VoxelMixer(16, 3, mixer_output="norm"), **EXPLODE),
    "with a residual": lambda: scale(VoxelMixer(16, 3, mixer_output="residual"), **EXPLODE),
    "as in a transformer, by pairs": lambda: scale(MambaTransMixer(16, 3, order="multi"), **EXPLODE),
    "as in a transformer": lambda: scale(MambaTransMixer(16, 3, order="bi"), **EXPLODE),
    "visual": lambda: ChannelsFirst(scale(SS2D(16, order="multi"), Ds=1e6, out_proj__weight=2e5)),
}


class ChannelsFirst(nn.Module):
    """SS2D on a volume, slice by slice."""

    def __init__(self, ss2d: SS2D):
        super().__init__()
        self.ss2d = ss2d

    def forward(self, x):
        slices = x.permute(0, 2, 3, 4, 1)
        return self.ss2d(slices.flatten(0, 1)).view_as(slices).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kind", EXPLODING)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_mixer_with_exploding_weights_stays_finite_in_float16_through_the_next_convolution(kind, precision):
    torch.manual_seed(0)
    mixer, conv = EXPLODING[kind](), nn.Conv3d(16, 16, 3, padding=1)
    set_mixer_precision(mixer, precision)
    nn.init.kaiming_normal_(conv.weight, a=0.01)
    x = torch.randn(1, 16, 4, 4, 4)
    with torch.autocast("cpu", dtype=torch.float16):
        assert mixer(x.half()).isfinite().all()
        y = mixer(x)
        assert y.isfinite().all()
        assert conv(y).isfinite().all()


def test_what_explodes_would_exceed_float16():
    torch.manual_seed(0)
    x = torch.randn(1, 16, 4, 4, 4)
    assert EXPLODING["projection out"]()(x).abs().max() > torch.finfo(torch.float16).max
    mixer = EXPLODING["scan"]()
    nn.init.ones_(mixer.mamba.out_proj.weight)
    assert mixer(x).abs().max() > torch.finfo(torch.float16).max
