"""Refusals; that converted weights are the right ones is shown in tests/networks/test_golden.py."""

import pytest
import torch

from nnunet_mamba.checkpoints import convert_state_dict


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="Unknown source 'vision_mamba'; choose one of umamba"):
        convert_state_dict({}, "vision_mamba")


def test_keys_of_another_code_are_refused():
    with pytest.raises(
        ValueError,
        match=r"no state dict of umamba: none of its 1 keys is like encoder.*conv3",
    ):
        convert_state_dict({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(1)}, "umamba")
