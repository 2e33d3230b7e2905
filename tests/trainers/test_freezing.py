"""A held part of the network stays exactly as it is, and nothing else notices."""

import copy

import pytest
import torch
from torch import nn

from nnunet_mamba.trainers.freezing import freeze_parameters


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    (100 * net(torch.ones(3, 4)).square().mean()).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)


def test_holding_equals_switching_the_gradient_off_and_on():
    """Weights, clipped norm, moments and step counts: the same as with requires_grad."""
    ours, theirs = network(), network()
    epoch = 0
    a, b = adamw(ours), adamw(theirs)
    freeze_parameters(ours[0].parameters(), a, lambda: epoch < 2)
    before = copy.deepcopy(ours[0].state_dict())
    for epoch in range(4):
        theirs[0].requires_grad_(epoch >= 2)
        step(ours, a)
        step(theirs, b)
        held = all(torch.equal(before[name], value) for name, value in ours[0].state_dict().items())
        assert held == (epoch < 2)
        for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_ddp_trains_with_a_held_part_and_no_option(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        bare, epoch = network(), 0
        optimizer = adamw(bare)
        freeze_parameters(bare[0].parameters(), optimizer, lambda: epoch < 2)
        wrapped = nn.parallel.DistributedDataParallel(bare)
        before = bare[0].weight.clone()
        for epoch in range(3):
            step(wrapped, optimizer)
            assert torch.equal(bare[0].weight, before) == (epoch < 2)
    finally:
        torch.distributed.destroy_process_group()


def test_letting_go_compiles_nothing_anew():
    from torch._dynamo.testing import CompileCounterWithBackend

    bare, epoch = network(), 0
    optimizer, counter = adamw(bare), CompileCounterWithBackend("aot_eager")
    freeze_parameters(bare[0].parameters(), optimizer, lambda: epoch < 2)
    compiled = torch.compile(bare, backend=counter)
    before = bare[0].weight.clone()
    for epoch in range(4):
        step(compiled, optimizer)
        assert torch.equal(bare[0].weight, before) == (epoch < 2)
    assert counter.frame_count == 1
