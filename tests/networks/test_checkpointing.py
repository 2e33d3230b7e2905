"""checkpoint_stages: the same network, outputs and gradients, with fewer activations kept."""

import pickle
from copy import deepcopy

import pytest
import torch

from nnunet_mamba import create_network
from nnunet_mamba.blocks.checkpointing import CheckpointedStages

VSS = {"features_per_stage": [8, 16, 32, 64], "depths": [1, 1, 2, 1], "d_state": 2}


def planned(ndim):
    return {
        "features_per_stage": [4, 8, 8],
        "strides": [[1] * ndim, *[[2] * ndim] * 2],
        "kernel_sizes": [[3] * ndim] * 3,
        "patch_size": [8] * ndim,
    }


SEGMAMBA = {"features_per_stage": [4, 4, 8, 8], "depths": [1] * 4, "d_state": 2}
NETWORKS = {  # one per class of network and number of axes: sizes, grid
    "mm_unet 3d": (planned(3), (8, 8, 8)),
    "umamba_enc 3d": (planned(3), (8, 8, 8)),
    "mamba_bi 2d": (planned(2), (8, 12)),
    "vm_unet 2d": (VSS, (40, 33)),
    "mamba_unet 2d": (VSS, (32, 33)),
    "swin_umamba 2d": ({**VSS, "features_per_stage": [4, 8, 16, 32, 64]}, (40, 33)),
    "swin_umamba_d 2d": (VSS, (32, 33)),
    "segmamba 3d": (SEGMAMBA, (32, 16, 16)),
    "segmamba_v2 3d": ({**SEGMAMBA, "features_per_stage": [8, 8, 8, 16]}, (32, 16, 16)),
    "nnmamba 3d": ({"features_per_stage": [16] * 4, "depths": [1, 2, 3], "d_state": 2}, (32, 16, 16)),
    "lightm_unet 3d": ({**SEGMAMBA, "features_per_stage": [8, 8, 16, 16]}, (16, 16, 8)),
}
every_network = pytest.mark.parametrize("case", NETWORKS)


def build(case, stages, dtype=torch.float64):
    sizes, grid = NETWORKS[case]
    torch.manual_seed(0)
    network = create_network(
        case.split()[0],
        input_channels=1,
        num_classes=3,
        deep_supervision=True,
        checkpoint_stages=stages,
        **sizes,
    )
    return network.to(dtype), torch.randn(2, 1, *grid, dtype=dtype)


def outputs_and_gradients(network, x):
    torch.manual_seed(1)  # of DropPath
    outputs = network(x)
    network.zero_grad()
    sum((y.float() ** 2).sum() for y in outputs).backward()
    return [*(y.detach() for y in outputs), *(p.grad for p in network.parameters())]


def kept_bytes(network, x):
    """What autograd keeps between forward and backward, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(x)
    assert outputs
    return sum(kept.values())


@every_network
@pytest.mark.parametrize("stages", [1, 2, "all"])
def test_keys_outputs_and_gradients_are_the_same(case, stages):
    plain, x = build(case, 0)
    network, _ = build(case, stages)
    assert list(network.state_dict()) == list(plain.state_dict())
    for got, expected in zip(outputs_and_gradients(network, x), outputs_and_gradients(plain, x), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(network.buffers(), plain.buffers(), strict=True):  # statistics of batch norms
        assert torch.equal(got, expected)


@every_network
def test_each_further_stage_keeps_less(case):
    network, x = build(case, 0)
    kept = []
    for stages in range(network.n_stages + 1):
        network.set_activation_checkpointing(stages)
        kept.append(kept_bytes(network, x))
    assert kept == sorted(kept, reverse=True)
    assert kept[1] < 0.95 * kept[0]
    assert kept[-1] < 0.6 * kept[0]


def test_nothing_is_recomputed_in_eval_mode_or_without_gradients(monkeypatch):
    network, x = build("mm_unet 3d", "all")
    calls = []
    monkeypatch.setattr("nnunet_mamba.blocks.checkpointing.checkpoint", lambda *a, **_: calls.append(a))
    network.eval()(x)
    with torch.no_grad():
        network.train()(x)
    assert not calls


@pytest.mark.parametrize("case", ["mm_unet 3d", "vm_unet 2d"])
def test_under_autocast_gradients_are_the_same(case):
    results = []
    for stages in (0, "all"):
        network, x = build(case, stages, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(outputs_and_gradients(network, x))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        ("mm_unet 3d", "aot_eager"),
        ("segmamba 3d", "eager"),
        *(
            pytest.param(name, "aot_eager", marks=pytest.mark.slow)
            for name in ("mamba_unet 2d", "nnmamba 3d")
        ),
    ],
)
@pytest.mark.timeout(300)
def test_compiled_as_one_graph_gradients_are_the_same(case, backend):
    """SegMamba's operations are those of MM-UNet, of which aot_eager derives the gradients' graph."""
    network, x = build(case, "all")
    for module in network.modules():
        if hasattr(module, "rate"):
            module.rate = 0.0  # a compiled graph draws other random numbers
    expected = outputs_and_gradients(network, x)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    for got, want in zip(outputs_and_gradients(compiled, x), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_the_network_can_be_copied_and_pickled():
    network, x = build("mm_unet 3d", 1)
    for copy in (deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert [m.n_checkpointed for m in copy.modules() if isinstance(m, CheckpointedStages)] == [1, 1]
        assert torch.equal(copy(x)[0], network(x)[0])


@pytest.mark.parametrize("stages", [-1, 4, "two", 1.0, True, None])
def test_other_values_are_errors(stages):
    with pytest.raises(
        ValueError, match='"all" or a number from 0 to 3, the resolutions of this network; got'
    ):
        build("mm_unet 3d", stages)
