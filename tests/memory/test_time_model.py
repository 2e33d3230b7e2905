"""Amounts of work, worked out by hand."""

import torch
from torch import nn

from nnunet_mamba.memory.live_memory import LiveMemory
from nnunet_mamba.memory.time_model import GROUPS, UNITS, count_work
from nnunet_mamba.ops import causal_conv1d, selective_scan


def work(call):
    total = dict.fromkeys(UNITS, 0)

    def observe(func, args, result, allocated):
        for unit, amount in count_work(func, args, result, allocated).items():
            total[unit] += amount
        return 0

    with LiveMemory(observe):
        call()
    return {unit: amount for unit, amount in total.items() if amount}


def test_an_addition_reads_two_tensors_and_writes_one():
    a, b = torch.ones(10), torch.ones(10)
    assert work(lambda: a + b) == {"byte": 3 * 40, "call": 1}


def test_views_are_free_and_work_in_place_is_not():
    a = torch.ones(10)
    assert work(lambda: a.view(2, 5).transpose(0, 1)) == {}
    assert work(lambda: a.mul_(2))["call"] == 1


def test_a_convolution_counts_two_flop_per_tap_and_its_traffic():
    conv, x = nn.Conv2d(2, 3, 3, padding=1, bias=False), torch.ones(1, 2, 5, 5)
    with torch.no_grad():
        counted = work(lambda: conv(x))
    assert counted == {"conv_flop": 2 * 25 * 3 * 2 * 9, "conv_byte": 4 * (50 + 54 + 75), "call": 1}


def test_a_depthwise_convolution_is_bound_by_memory():
    conv, x = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), torch.ones(1, 4, 5, 5)
    with torch.no_grad():
        assert work(lambda: conv(x)) == {"depthwise_byte": 4 * (100 + 36 + 100), "call": 1}


def test_a_matrix_product():
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert work(lambda: a @ b) == {"matmul_flop": 2 * 2 * 3 * 4, "byte": 4 * (6 + 12 + 8), "call": 1}


def test_scans_count_tokens_times_rows_of_channels_times_states():
    u = torch.ones(2, 4, 6, requires_grad=True)  # b, d, l
    A, B = -torch.ones(4, 3), torch.ones(2, 3, 6)
    counted = work(lambda: selective_scan(u, u, A, B, B, backend="torch").sum().backward())
    forward = 2 * 6 * 64 * 3  # four channels take a row of 64
    assert counted["scan_element"] == forward + round(2.1 * forward)


def test_convolutions_count_tokens_times_channels_times_taps():
    x = torch.ones(2, 4, 6, requires_grad=True)
    counted = work(lambda: causal_conv1d(x, torch.ones(4, 3), backend="numba").sum().backward())
    assert counted["walk_element"] == 2 * (2 * 6 * 4 * 3)  # there and back


def test_every_unit_is_in_one_group():
    assert sorted(UNITS) == sorted(unit for units in GROUPS.values() for unit in units)
    assert len(set(UNITS)) == len(UNITS)
