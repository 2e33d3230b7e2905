from dataclasses import replace

import pytest
import torch

from nnunet_mamba.study.report.curves import count_parameters, load_checkpoint, read_curves
from nnunet_mamba.study.report.quickstart_content import case_dice, shown_cases


def test_best_median_and_worst_are_shown_by_their_dice(report):
    shuffled = replace(report, cases=[report.cases[k] for k in (2, 0, 3, 1)])
    assert [(word, case.name) for word, case in shown_cases(shuffled)] == [
        ("best", "phantom_001"),  # moved by nothing
        ("median", "phantom_002"),
        ("worst", "phantom_004"),  # moved by 3 voxels
    ]


def test_two_cases_are_shown_without_a_ranking(report):
    assert [word for word, _ in shown_cases(replace(report, cases=report.cases[:2]))] == ["case", "case"]


def test_case_dice_leaves_undefined_labels_out(report):
    name = report.cases[0].name
    undefined = [replace(s, value=float("nan")) if s.label == "2" else s for s in report.scores]
    assert case_dice(report.scores, name) == case_dice(undefined, name) == 1
    assert case_dice([replace(s, value=float("nan")) for s in report.scores], name) == 0


def logged(n_epochs, n_last):
    """nnU-Net's log after `n_epochs`, of which the Dice lists have only `n_last` entries."""
    return {
        "train_losses": [1.0] * n_epochs,
        "val_losses": [2.0] * n_epochs,
        "mean_fg_dice": [0.5] * n_last,
        "ema_fg_dice": [0.4] * n_last,
        "epoch_start_timestamps": [10.0 * k for k in range(n_epochs)],
        "epoch_end_timestamps": [10.0 * k + 7 for k in range(n_epochs)],
    }


def test_curves_are_cut_to_complete_epochs():
    curves = read_curves({"logging": logged(4, 3)})
    assert curves.n_epochs == 3
    assert curves.validation_loss == (2.0, 2.0, 2.0)
    assert curves.epoch_s == pytest.approx((7.0, 7.0, 7.0))


def test_shared_weights_count_once_and_running_statistics_not_at_all(tmp_path):
    """nnU-Net's decoder holds the encoder, so that each weight of it has two names."""
    encoder = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.BatchNorm3d(3))  # 9 + 6
    network = torch.nn.ModuleDict({"encoder": encoder, "decoder": torch.nn.ModuleDict({"encoder": encoder})})
    torch.save({"network_weights": network.state_dict()}, tmp_path / "checkpoint.pth")
    assert count_parameters(load_checkpoint(tmp_path / "checkpoint.pth")) == 15
    assert sum(p.numel() for p in network.parameters()) == 15
