"""Live bytes of a run on fake tensors: worked out by hand."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_mamba.memory.live_memory import LiveMemory

KIB = 1024


def kib(n):
    """A tensor of n KiB."""
    return torch.empty(n * KIB // 4)


def test_the_peak_is_when_most_tensors_live_not_how_many_ever_lived():
    memory = LiveMemory()
    with FakeTensorMode(), memory:
        a = kib(3)
        b = kib(2)  # 5 live
        del a
        c = kib(1)  # 3 live
        del b
        d = kib(4)  # 5 live
        e = kib(2)  # 7 live
    assert memory.peak == Counter(transient=7 * KIB)
    assert memory.live["transient"] == sum(t.untyped_storage().nbytes() for t in (c, d, e)) == 7 * KIB


def test_views_and_work_in_place_take_nothing():
    memory = LiveMemory()
    with FakeTensorMode(), memory:
        a = kib(4)
        b = a.view(2, -1).transpose(0, 1)
        a.add_(1)
        b.relu_()
    assert memory.peak.total() == 4 * KIB


def test_a_view_keeps_the_whole_storage():
    memory = LiveMemory()
    with FakeTensorMode(), memory:
        corner = kib(8)[:1]
        kib(1)
    assert memory.peak.total() == 9 * KIB
    assert corner.numel() == 1


def test_workspace_counts_only_while_its_operator_runs():
    memory = LiveMemory(lambda func, args, result: 5 * KIB if "relu" in str(func) else 0)
    with FakeTensorMode(), memory:
        a = kib(2)
        a.relu_()  # 2 + 5
        b = kib(4)  # 6
    assert memory.peak == Counter(transient=2 * KIB, workspace=5 * KIB)
    assert memory.live.total() == 6 * KIB
    del a, b


def test_kinds_follow_the_block_of_birth_and_names_given_later():
    memory = LiveMemory()
    with FakeTensorMode():
        before = kib(1)
        memory.relabel([before], "weights")
        with memory:
            with memory.allocate_as("kept"):
                a = kib(2)
            b = kib(3)
            memory.relabel([b], "weights")
            c = kib(1)
    assert memory.peak == Counter(weights=4 * KIB, kept=2 * KIB, transient=KIB)
    del a, c


def test_what_autograd_keeps_is_alive_until_backward():
    memory = LiveMemory()
    with FakeTensorMode():
        w = torch.empty(KIB // 4, requires_grad=True)
        with memory:
            with memory.allocate_as("kept"):
                y = (w * 2).exp().sum()  # exp keeps its result; the product, needed by no one, goes
            assert memory.live["kept"] == KIB + 4
            del y
            assert memory.live["kept"] == 0


def test_what_was_there_before_counts_from_its_first_use_on():
    memory = LiveMemory()
    with FakeTensorMode():
        a, unused = kib(2), kib(9)
        with memory:
            b = a + 1
    assert memory.peak == Counter(before=2 * KIB, transient=2 * KIB)
    del b, unused


def test_the_training_of_two_convolutions_by_hand():
    """1 -> 2 -> 1 channels on 2048 voxels: a map of one channel has 8 KiB, the weights 54 values each.

    Most is alive in the backward pass of the ReLU: the input (8), the map behind the ReLU (16), the gradient
    that comes (16) and the one that goes (16), the gradient of the second weights.
    """
    memory = LiveMemory()
    with FakeTensorMode():
        first, second = (nn.Conv3d(*channels, 3, padding=1, bias=False) for channels in ((1, 2), (2, 1)))
        x = torch.empty(2, 1, 8, 8, 16)
        memory.relabel([first.weight, second.weight], "weights")
        with memory:
            loss = second(first(x).relu_()).sum()
            loss.backward()
    assert memory.peak["before"] == 8 * KIB
    assert memory.peak["weights"] == 2 * 54 * 4
    assert memory.peak["transient"] == 3 * 16 * KIB + 54 * 4 + 2 * 4  # and the loss with its gradient


def test_an_error_ends_the_block_of_birth():
    memory = LiveMemory()
    with pytest.raises(RuntimeError), memory.allocate_as("kept", backward=True):
        raise RuntimeError
    assert (memory.kind, memory._in_backward) == ("transient", False)
