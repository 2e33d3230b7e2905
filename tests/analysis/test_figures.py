"""A title may hold the name of a trainer from anybody's checkpoint."""

import pytest
import torch

from nnunet_mamba.analysis.activations import BINS, FeatureSpread
from nnunet_mamba.analysis.attention import Attention, ReceptiveField
from nnunet_mamba.analysis.figures import draw_attention, draw_feature_spreads, draw_field

TITLE = r"nnUNetTrainer$\frac$"
PATCH = torch.rand(6, 6)
SPREAD = FeatureSpread("stages.0", "skip", False, 0.0, 1.0, torch.full((BINS,), 1 / BINS))
ATTENTION = Attention("stages.0", 0, (1, 1), (2, 2), {"HW": torch.rand(3, 3)})


@pytest.mark.parametrize(
    "draw",
    [
        lambda file: draw_attention(file, [ATTENTION], PATCH, (2, 2), TITLE),
        lambda file: draw_feature_spreads(file, [SPREAD], TITLE),
        lambda file: draw_field(file, ReceptiveField((2, 2), 1, PATCH), PATCH, TITLE),
    ],
    ids=["attention", "spreads", "field"],
)
def test_a_dollar_in_a_title_starts_no_formula(draw, tmp_path):
    draw(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
