"""nnU-Net's training logs are read as it writes them."""

import json
import math

import pytest

from nnunet_mamba.nnunet.logs import EpochParser, parse_numbers, read_epochs, read_settings

TIMESTAMP = "2026-11-21 02:51:06.593539: "
LINES = (
    "Epoch 7",
    "Current learning rate: 0.01",
    "train_loss 0.6627",
    "val_loss -2e-3",
    "Pseudo dice [np.float32(0.2), np.float32(nan), 0.4]",
    "Epoch time: 16.65 s",
)


@pytest.mark.parametrize("stamp", [TIMESTAMP, ""])
def test_the_last_line_of_an_epoch_gives_its_values(stamp):
    parser = EpochParser()
    *before, epoch = (parser.feed(f"{stamp}{line} ") for line in LINES)
    assert before == [None] * 5
    assert (epoch.number, epoch.train_loss, epoch.val_loss, epoch.seconds) == (7, 0.6627, -0.002, 16.65)
    assert epoch.dice[::2] == (0.2, 0.4) and math.isnan(epoch.dice[1])
    assert epoch.is_complete


def test_what_an_epoch_lacks_is_nan_and_nothing_is_left_of_the_epoch_before():
    parser = EpochParser()
    for line in LINES:
        parser.feed(line)
    parser.feed("Epoch 8")
    epoch = parser.feed("Epoch time: 2 s")
    assert (epoch.number, epoch.seconds, epoch.dice) == (8, 2.0, ())
    assert math.isnan(epoch.train_loss) and math.isnan(epoch.val_loss)
    assert not epoch.is_complete


def test_values_before_the_first_epoch_are_of_none():
    assert EpochParser().feed("Epoch time: 2 s") is None


def test_epochs_of_several_logs_come_in_order_complete_and_in_their_last_version():
    text = "\n".join(TIMESTAMP + line for line in LINES)
    first = text + f"\n{TIMESTAMP}Epoch 8\n{TIMESTAMP}train_loss 9\n"
    again = text.replace("0.6627", "0.5") + "\n" + text.replace("Epoch 7", "Epoch 2")
    assert [(epoch.number, epoch.train_loss) for epoch in read_epochs([first, again])] == [
        (2, 0.6627),
        (7, 0.5),
    ]


@pytest.mark.parametrize("lost", [2, 3, 4, 5])
def test_an_epoch_that_lacks_a_line_is_left_out(lost):
    lines = [line for i, line in enumerate(LINES) if i != lost]
    assert read_epochs(["\n".join(lines)]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0.5, 0.25]", [0.5, 0.25]),
        ("[np.float64(0.5)]", [0.5]),
        ("[1e-05, 0.0]", [1e-5, 0.0]),
        ("-1.5e+02", [-150.0]),
        ("inf", [math.inf]),
        ("[]", []),
    ],
)
def test_numbers(text, expected):
    assert parse_numbers(text) == expected


def test_the_number_of_an_absent_label_is_nan():
    assert math.isnan(parse_numbers("[np.float32(nan)]")[0])


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_settings_that_cannot_be_read_are_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "debug.json").write_text(content)
    assert read_settings(tmp_path) == {}


def test_settings_are_those_of_debug_json(tmp_path):
    (tmp_path / "debug.json").write_text(json.dumps({"num_epochs": "40"}))
    assert read_settings(tmp_path) == {"num_epochs": "40"}
