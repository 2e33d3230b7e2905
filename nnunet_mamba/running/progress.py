"""What of nnU-Net's output is worth showing, one short line at a time."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

Say = Callable[[str], None]

BAR = re.compile(r"^(?P<what>[^|]*?):?\s*(?P<percent>\d+)%\|.*?\|\s*(?P<count>\d+/\d+)")
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ")
NOISE = re.compile(
    r"^(#|\{|'|INFO: You are using|Please cite|Isensee|nnU-Net: a self-conf|Nature methods"
    r"|perform_everything_on_device|Dropping 3d_lowres|Using <class|If you didn't see any"
    r"|.* U-Net configuration:)"
)
BAR_EVERY_S = 5.0
WIDTH = 120


class PlainLines:
    """Shows lines but for banners and dumps, and progress bars now and then."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.bar_at = 0.0
        self.bar_said = ""

    def __call__(self, line: str) -> None:
        line = STAMP.sub("", line).strip()
        bar = BAR.match(line)
        if bar:
            self.show_bar(bar["what"].strip() or "progress", bar["count"])
        elif line and not NOISE.match(line):
            self.say(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")

    def show_bar(self, what: str, count: str) -> None:
        """At most every few seconds; a finished bar always, but once."""
        now, text = time.monotonic(), f"{what} {count}"
        done, total = count.split("/")
        if (done == total or now - self.bar_at > BAR_EVERY_S) and text != self.bar_said:
            self.bar_at, self.bar_said = now, text
            self.say(text)


class PredictionLines:
    """Counts the cases of a sequential prediction, and the tiles of each.

    nnU-Net says how many there are, then for each `perform_everything_on_device` and a bar of tiles.
    """

    SHOWN = re.compile(r"^(WARNING|Prediction on device was unsuccessful|.*Error\b)")

    def __init__(self, say: Say) -> None:
        self.say = say
        self.total = "?"
        self.case = 0
        self.bars = PlainLines(say)

    def __call__(self, line: str) -> None:
        line = line.strip()
        if match := re.search(r"That's (\d+) cases", line):
            self.total = match[1]
        elif line.startswith("perform_everything_on_device: "):
            self.case += 1
        elif bar := BAR.match(line):
            self.bars.show_bar(f"case {self.case}/{self.total}, tile", bar["count"])
        elif self.SHOWN.match(line):
            self.say(line[:WIDTH])


class TrainingLines:
    """Folds the lines of an epoch into one, with the time that is left; shows the validation after it.

    nnU-Net prints an epoch as: Epoch K / train_loss X / val_loss X / Pseudo dice [X, ..] / Epoch time: X s
    """

    SHOWN = re.compile(
        r"^(predicting |Mean Validation Dice|WARNING|Training done|Using device|The loss is not finite)"
    )

    def __init__(self, say: Say, debug_json: Path) -> None:
        self.say = say
        self.debug_json = debug_json  # which nnU-Net writes before the first epoch
        self.epoch: dict[str, str] = {}
        self.times_s: list[float] = []

    def __call__(self, line: str) -> None:
        line = STAMP.sub("", line).strip()
        if match := re.match(r"^Epoch (\d+)\s*$", line):
            self.epoch = {"number": match[1]}
        elif match := re.match(r"^(train_loss|val_loss|Pseudo dice) (.+)", line):
            self.epoch[match[1]] = match[2]
        elif match := re.match(r"^Epoch time: ([\d.]+) s", line):
            self.times_s.append(float(match[1]))
            self.say(self.summary())
        elif self.SHOWN.match(line):
            self.say(line[:WIDTH])

    def summary(self) -> str:
        done, total = int(self.epoch.get("number", -1)) + 1, self.n_epochs()
        dice = " ".join(f"{value:.2f}" for value in pseudo_dice(self.epoch.get("Pseudo dice", "[]")))
        losses = f"loss {self.epoch.get('train_loss', '?')}, validation {self.epoch.get('val_loss', '?')}"
        text = (
            f"epoch {done}{f'/{total}' if total else ''}   {losses}   Dice {dice}   {self.times_s[-1]:.1f} s"
        )
        if total and total > done:
            recent = self.times_s[-5:]
            text += f"   {duration((total - done) * sum(recent) / len(recent))} left"
        return text

    def n_epochs(self) -> int | None:
        """How many epochs this trainer runs, as far as nnU-Net has said."""
        try:
            return int(json.loads(self.debug_json.read_text())["num_epochs"])
        except (OSError, ValueError, KeyError):
            return None


def pseudo_dice(text: str) -> list[float]:
    """nnU-Net's list, of plain or of numpy numbers: [np.float64(0.71), nan] -> [0.71, nan]"""
    plain = re.sub(r"np\.float\d+", "", text)
    return [float(number) for number in re.findall(r"nan|\d+\.?\d*(?:e-?\d+)?", plain)]


def duration(seconds: float) -> str:
    """0:42, 3:07, 1:02:03"""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def now_and_then(say: Say, what: str, every_s: float = BAR_EVERY_S) -> Callable[[int, int], None]:
    """A callback for (done, total) that says so every few seconds and at the end."""
    said_at = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said_at
        if done == total or time.monotonic() - said_at > every_s:
            said_at = time.monotonic()
            say(f"{what} {done}/{total}")

    return tell
