import pytest
import torch
from simulated_study import log_text

from nnunet_mamba.io.torch_load import load_restricted
from nnunet_mamba.study.report.training_curves import (
    count_parameters,
    find_training_runs,
    parse_logs,
    read_curves,
)

LOG = """
2026-11-21 02:51:06.593539: Epoch 0{}
2026-11-21 02:51:06.593616: Current learning rate: 0.01
2026-11-21 02:51:23.239072: train_loss 0.6627
2026-11-21 02:51:23.239293: val_loss -2e-3
2026-11-21 02:51:23.239348: Pseudo dice [np.float32(0.2), np.float32(nan), 0.4]
2026-11-21 02:51:23.239407: Epoch time: 16.65 s
2026-11-21 02:51:23.239445: Yayy! New best EMA pseudo Dice: 0.002199999988079071
"""


def test_an_epoch_is_read_as_nnunet_writes_it():
    curves = parse_logs([LOG.format("")])
    assert curves.train_loss == (0.6627,) and curves.validation_loss == (-0.002,)
    assert curves.dice == pytest.approx((0.3,))  # of the labels that its patches had
    assert curves.epoch_s == (16.65,)


def test_the_moving_average_is_nnunets():
    second = LOG.format("").replace("Epoch 0", "Epoch 1").replace("0.2", "0.6").replace("0.4]", "0.6]")
    assert parse_logs([LOG.format("") + second]).smooth_dice == pytest.approx((0.3, 0.9 * 0.3 + 0.1 * 0.6))


def test_a_resumed_training_replaces_the_epochs_it_repeats_and_drops_the_broken_one():
    wrap_name = LOG.format("") + "2026-11-21 02:57:34.892080: Epoch 1\n2026-11-21 02:57:34.9: train_loss 9\n"
    resumed = LOG.format("").replace("0.6627", "0.5")
    curves = parse_logs([wrap_name, resumed])
    assert curves.n_epochs == 1 and curves.train_loss == (0.5,)


def test_a_checkpoint_is_read_where_there_is_no_log(tmp_path):
    fold = tmp_path / "nnUNetTrainer__nnUNetPlans__2d" / "fold_3"
    fold.mkdir(parents=True)
    logging = {name: [0.5] for name in ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice")}
    logging |= {"epoch_start_timestamps": [0.0], "epoch_end_timestamps": [7.0]}
    torch.save({"logging": logging}, fold / "checkpoint_latest.pth")
    (training,) = find_training_runs(tmp_path)
    assert (training.fold, training.curves.epoch_s) == ("3", (7.0,))


def test_folders_give_their_names_and_facts_without_the_machines_name(simulated):
    runs = find_training_runs(simulated[1])
    assert len(runs) == 25
    assert {t.fold for t in runs} == set("01234")
    assert runs[0].facts["GPU"] == "simulated GPU"
    assert all("secret" not in t.facts.values() for t in runs)


def test_simulated_logs_are_whole():
    assert parse_logs([log_text("", 0, n_epochs=7)]).n_epochs == 7


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
    assert count_parameters(load_restricted(tmp_path / "checkpoint.pth")) == 15
    assert sum(p.numel() for p in network.parameters()) == 15
