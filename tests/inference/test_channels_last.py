"""The faster operators beside torch's: every network, odd arguments, and nothing that they leave behind."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunet_mamba import create_network
from nnunet_mamba.inference import channels_last as module
from nnunet_mamba.inference.channels_last import ChannelsLast, channels_last

CPU = torch.device("cpu")


def make(name="nnunet", ndim=3, seed=0):
    """A tiny network of that name and a batch of two that it takes."""
    torch.manual_seed(seed)
    grid = (8, 12, 8)[:ndim]
    stages = {"strides": [[1] * ndim, [2] * ndim], "kernel_sizes": [[3] * ndim] * 2}
    made = create_network(
        name, **stages, features_per_stage=[4, 8], patch_size=grid, input_channels=1, num_classes=3
    )
    return made.eval(), torch.randn(2, 1, *grid)


@pytest.fixture
def counted(monkeypatch):
    """The names of the faster operators that were called."""
    called = []
    for name in ("onednn_convolution", "instance_norm"):
        call = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, c=call, n=name: (called.append(n), c(*args))[1])
    return called


@pytest.mark.parametrize("name, ndim", [("nnunet", 2), ("nnunet", 3), ("umamba_bot", 2), ("umamba_enc", 3)])
def test_networks_return_the_same_to_rounding(name, ndim, counted):
    net, x = make(name, ndim)
    for items in (x, x[:1]):
        with torch.inference_mode():
            expected = net(items)
            with channels_last(net, CPU):
                found = net(items)
        assert counted
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_nothing_of_it_stays_and_new_weights_count():
    net, x = make()
    other = make(seed=1)[0]
    layouts = {name: weight.stride() for name, weight in net.state_dict().items()}
    with torch.inference_mode():
        first = net(x)
        with ChannelsLast():
            net(x)
        assert torch.equal(net(x), first)
        assert {name: weight.stride() for name, weight in net.state_dict().items()} == layouts
        net.load_state_dict(other.state_dict())
        with ChannelsLast():
            found = net(x)
    torch.testing.assert_close(found, other(x).detach(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, first)


def test_a_network_that_trains_is_left_alone(counted):
    net, x = make()
    gradients = []
    for context in (torch.enable_grad(), ChannelsLast()):
        net.zero_grad()
        with context:
            net(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(map(torch.equal, *gradients))
    assert not counted


@pytest.mark.parametrize("padding", [0, 1])
def test_large_convolutions_are_winograds(padding, counted):
    x, weight = torch.randn(1, 16, 16, 16, 16), torch.randn(16, 16, 3, 3, 3)
    with torch.no_grad():
        expected = F.conv3d(x, weight, padding=padding)
        with ChannelsLast():
            found = F.conv3d(x, weight, padding=padding)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert counted == ([] if padding else ["onednn_convolution"])


OPTIONS = [
    dict(zip(("stride", "padding", "dilation", "groups"), values, strict=True))
    for values in product((1, 2, (2,)), (0, 1), (1, 2), (1, 2, 4))
]


@pytest.mark.parametrize("ndim", [2, 3])
def test_convolutions_take_all_arguments_of_torchs(ndim, counted):
    convolve = getattr(F, f"conv{ndim}d")
    x, bias = torch.randn(1, 4, *[8] * ndim), torch.randn(8)
    for options in OPTIONS:
        weight = torch.randn(8, 4 // options["groups"], *[3] * ndim)
        with torch.no_grad():
            expected = convolve(x, weight, bias, **options)
            with ChannelsLast():
                torch.testing.assert_close(
                    convolve(x, weight, bias, **options), expected, rtol=1e-4, atol=1e-4
                )
                torch.testing.assert_close(
                    convolve(input=x, weight=weight, **options),
                    expected - bias.view(-1, *[1] * ndim),
                    rtol=1e-4,
                    atol=1e-4,
                )
    assert len(counted) == 2 * len(OPTIONS)


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.conv(x[0]),
        lambda net, x: net.double().conv(x.double()),
        lambda net, x: net.half().norm(x.half()),
        lambda net, x: F.conv3d(x, net.conv.weight, padding="same"),
        lambda net, x: F.instance_norm(x, torch.zeros(4), torch.ones(4), use_input_stats=False),
        lambda net, x: F.instance_norm(x.flatten(2)),
        lambda net, x: net.conv(x[:0]),
    ],
    ids=["no batch", "float64", "float16", "same", "running", "1d", "empty"],
)
def test_what_the_faster_operators_do_not_take_is_torchs_to_the_last_bit(run, counted):
    torch.manual_seed(0)
    net = nn.ModuleDict({"conv": nn.Conv3d(4, 4, 3), "norm": nn.InstanceNorm3d(4, affine=True)}).eval()
    net.__dict__.update(conv=net["conv"], norm=net["norm"])
    x = torch.randn(2, 4, 5, 6, 7)
    with torch.no_grad():
        expected = run(net, x)
        with ChannelsLast():
            assert torch.equal(run(net, x), expected)
    assert not counted


def test_one_voxel_has_no_norm_here_either():
    with ChannelsLast(), torch.no_grad(), pytest.raises(ValueError, match="more than 1 spatial element"):
        F.instance_norm(torch.randn(1, 4, 1, 1, 1))


class Compiled(nn.Module):
    """A network as torch.compile wraps it."""

    def __init__(self):
        super().__init__()
        self._orig_mod = nn.Identity()


@pytest.mark.parametrize("net", [Compiled(), nn.Sequential(Compiled())], ids=["compiled", "within DDP"])
def test_compiled_networks_and_other_devices_keep_torchs(net, monkeypatch):
    assert isinstance(channels_last(nn.Identity(), CPU), ChannelsLast)
    assert not isinstance(channels_last(net, CPU), ChannelsLast)
    assert not isinstance(channels_last(nn.Identity(), torch.device("cuda")), ChannelsLast)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not isinstance(channels_last(nn.Identity(), CPU), ChannelsLast)
