from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nnunet_mamba.inference import batches, tiles
from nnunet_mamba.inference.batches import choose_batch_size, floor_power_of_two, mirrorings, split_groups


def test_copies_come_in_nnunets_order():
    assert mirrorings((0, 1)) == [(), (2,), (3,), (2, 3)]
    assert mirrorings(None) == mirrorings(()) == [()]
    assert len(mirrorings((0, 1, 2))) == 8


@pytest.mark.parametrize("most, found", [(0.3, 1), (1, 1), (3, 2), (4, 4), (100.5, 64)])
def test_powers_of_two_are_rounded_down(most, found):
    assert floor_power_of_two(most) == found


def test_groups_have_all_items_in_order_and_few_sizes():
    found = list(split_groups(range(23), lambda: 8))
    assert [i for group in found for i in group] == list(range(23))
    assert [len(group) for group in found] == [8, 8, 4, 2, 1]


def test_a_smaller_limit_holds_from_the_next_group_on():
    limits = iter([8, 2, 2, 2])
    assert [len(group) for group in split_groups(range(14), lambda: next(limits))] == [8, 2, 2, 2]


def test_on_a_cpu_small_patches_go_together_and_large_ones_alone():
    sizes = [
        choose_batch_size(nn.Identity(), torch.empty(1, 1, *p)) for p in ((40, 56), (128, 128), (40, 56, 40))
    ]
    assert sizes == [16, 4, 1]
    assert all(a >= b for a, b in pairwise(sizes))


def test_on_a_gpu_half_of_the_free_memory_is_used(monkeypatch):
    monkeypatch.setattr(batches, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(batches, "measure_forward_bytes", lambda *_: 100)
    patch = SimpleNamespace(device=torch.device("cuda"), shape=(1, 1, 64, 64))
    assert choose_batch_size(nn.Identity(), patch) == 4
    patch.shape = (1, 1, 192, 256, 256)
    assert choose_batch_size(nn.Identity(), patch) == 1


def test_a_tile_is_constant_if_every_channel_is():
    tile = torch.zeros(2, 3, 4, 5)
    tile[1] = -1.5
    assert tiles.constant_values(tile) == (0, -1.5)
    assert tiles.constant_values(tile[:, 0]) == (0, -1.5)
    for place in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 3, 0)):
        other = tile.clone()
        other[place] += 1e-3
        assert tiles.constant_values(other) is None
