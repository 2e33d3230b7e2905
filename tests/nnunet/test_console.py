import json

from nnunet_mamba.nnunet.console import (
    PlainLines,
    PredictionLines,
    TrainingLines,
    format_duration,
    rate_limited,
)

TIMESTAMP = "2026-11-21 01:14:14.123456: "


def test_an_epoch_is_one_line_with_the_time_left(tmp_path):
    said = []
    (tmp_path / "debug.json").write_text(json.dumps({"num_epochs": "40"}))
    lines = TrainingLines(said.append, tmp_path)
    for text in (
        "Epoch 9",
        "Current learning rate: 0.008",
        "train_loss -0.4321",
        "val_loss -0.5",
        "Pseudo dice [np.float32(0.71), np.float32(0.698)]",
        "Epoch time: 8.5 s",
        "Yayy! New best EMA pseudo Dice: 0.61",
    ):
        lines(TIMESTAMP + text)
    assert said == ["epoch 10/40   loss -0.4321, validation -0.5   Dice 0.71 0.70   8.5 s   4:15 left"]


def test_the_number_of_epochs_may_be_unknown(tmp_path):
    said = []
    lines = TrainingLines(said.append, tmp_path)
    for text in ("Epoch 0", "train_loss 1", "val_loss 1", "Pseudo dice [0.1]", "Epoch time: 1 s"):
        lines(text)
    assert said == ["epoch 1   loss 1, validation 1   Dice 0.10   1.0 s"]


def test_steps_within_an_epoch_and_compilation_are_shown(tmp_path):
    said = []
    (tmp_path / "debug.json").write_text(json.dumps({"num_epochs": "20"}))
    lines = TrainingLines(said.append, tmp_path)
    lines(TIMESTAMP + "Selective scan on cpu: backend numba")
    lines(TIMESTAMP + "Epoch 2")
    for text in ("training step 4/30", "validation step 1/4", "training steps are fun"):
        lines(text)
    assert said == [
        "compiling the CPU's kernels with the first step, unless that was done before",
        "epoch 3/20: training step 4/30",
        "epoch 3/20: validation step 1/4",
    ]


def test_the_first_epoch_which_compiles_does_not_count_for_the_time_left(tmp_path):
    told = []
    (tmp_path / "debug.json").write_text(json.dumps({"num_epochs": "4"}))
    lines = TrainingLines(lambda line: None, tmp_path, told.append)
    for number, seconds in enumerate((100, 10, 12)):
        for text in (f"Epoch {number}", "train_loss 1", "val_loss 1", f"Epoch time: {seconds} s"):
            lines(text)
    assert [epoch["seconds_left"] for epoch in told] == [300, 20, 11]


def test_validation_is_shown_and_dumps_are_not(tmp_path):
    said = []
    lines = TrainingLines(said.append, tmp_path)
    for text in (
        "{'plans': 1}",
        "predicting case_1",
        "case_1, shape torch.Size([1])",
        "Mean Validation Dice:  0.8",
    ):
        lines(TIMESTAMP + text)
    assert said == ["predicting case_1", "Mean Validation Dice:  0.8"]


def test_a_non_finite_loss_is_shown(tmp_path):
    said = []
    TrainingLines(said.append, tmp_path)(
        TIMESTAMP + "The loss is not finite in epoch 3, training iteration 2."
    )
    assert len(said) == 1


def test_bars_are_shown_now_and_then_and_at_the_end_once():
    said = []
    lines = PlainLines(said.append)
    for count in (0, 1, 2, 28, 28):
        lines(f"Preprocessing cases: {count * 100 // 28:3d}%|####      | {count}/28 [00:05<00:00, 23.59it/s]")
    assert said == ["Preprocessing cases 0/28", "Preprocessing cases 28/28"]


def test_bars_are_told_too():
    told = []
    PlainLines(lambda line: None, told.append)(
        "Preprocessing cases: 100%|####| 28/28 [00:05<00:00, 23.59it/s]"
    )
    assert told == [{"text": "Preprocessing cases 28/28"}]


def test_an_epoch_is_told_in_numbers(tmp_path):
    told = []
    (tmp_path / "debug.json").write_text(json.dumps({"num_epochs": "3"}))
    lines = TrainingLines(lambda line: None, tmp_path, told.append)
    for text in (
        "Epoch 0",
        "train_loss nan",
        "val_loss -0.5",
        "Pseudo dice [np.float32(0.71), nan]",
        "Epoch time: 8 s",
        "predicting case_1",
    ):
        lines(TIMESTAMP + text)
    epoch, validation = told
    assert epoch == {
        "epoch": 1,
        "of": 3,
        "train_loss": None,
        "val_loss": -0.5,
        "dice": [0.71, None],
        "seconds_per_epoch": 8.0,
        "seconds_left": 16.0,
    }
    assert validation == {"validation_case": 1, "seconds_left": None}


def test_tiles_of_a_prediction_are_told():
    told = []
    lines = PredictionLines(lambda line: None, told.append)
    lines("That's 2 cases.")
    lines("perform_everything_on_device: False")
    lines(" 12%|##        | 1/8 [00:03<00:21,  3.09s/it]")
    assert told == [{"case": 1, "cases": 2, "tile": 1, "tiles": 8}]


def test_banners_and_empty_lines_are_dropped_and_others_kept():
    said = []
    lines = PlainLines(said.append)
    for text in (
        "",
        "#######",
        "Please cite the following paper",
        "{'data_identifier': 1}",
        "Experiment planning...",
    ):
        lines(text)
    assert said == ["Experiment planning..."]


def test_predicted_cases_are_counted():
    said = []
    lines = PredictionLines(said.append)
    lines("I am only working on cases that haven't been predicted yet. That's 2 cases.")
    lines("perform_everything_on_device=True is only supported for cuda devices! Setting this to False")
    for _ in range(2):
        lines("perform_everything_on_device: False")
        for done in (1, 8, 8):
            lines(f"{done * 100 // 8:3d}%|##        | {done}/8 [00:03<00:21,  3.09s/it]")
    assert said[-1] == "case 2/2, tile 8/8"
    assert said.count("case 1/2, tile 8/8") == 1


def test_progress_is_logged_at_the_end():
    said = []
    tell = rate_limited(said.append, "checked", every_s=1000)
    for done in range(1, 4):
        tell(done, 3)
    assert said == ["checked 3/3"]


def test_durations():
    assert [format_duration(s) for s in (5.4, 187, 3723)] == ["0:05", "3:07", "1:02:03"]
