"""Fake nnUNetv2_train: its lines, its checkpoints, its flags, in a tenth of a second.

Called as: fake_train.py ARGUMENTS. Appends them to $FAKE_CALLS. The fold's folder is $FAKE_FOLD. It runs
N_EPOCHS epochs, saving latest and previous after each; a checkpoint is a zip archive that holds the number of
epochs done. $FAKE_TROUBLE is KIND@EPOCH: what happens in that epoch, before its checkpoint, unless the
training goes on from a checkpoint.
"""

import json
import os
import signal
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

N_EPOCHS = 5
say = partial(print, flush=True)
FOLD = Path(os.environ["FAKE_FOLD"])
LINES = """Epoch {number}
train_loss -0.1
val_loss -0.2
Pseudo dice [np.float32(0.5), np.float32(nan)]
Epoch time: 2.0 s"""
ERRORS = {
    "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
    "capacity of 7.79 GiB of which 1.12 GiB is free.",
    "full": "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 320 vs 212\n"
    "RuntimeError: PytorchStreamWriter failed writing file data/3: file write failed",
}


def save(name: str, n_done: int) -> None:
    file = FOLD / f"checkpoint_{name}.pth"
    with zipfile.ZipFile(file.with_suffix(".draft"), "w") as archive:
        archive.writestr("epochs", str(n_done))
        archive.writestr("weights", "w" * 1000)
    if name == "latest" and file.exists():
        file.replace(FOLD / "checkpoint_previous.pth")
    file.with_suffix(".draft").replace(file)


def load(name: str) -> int:
    with zipfile.ZipFile(FOLD / f"checkpoint_{name}.pth") as archive:
        return int(archive.read("epochs"))


def trouble(epoch: int) -> None:
    kind, _, at = os.environ.get("FAKE_TROUBLE", "").partition("@")
    if at != str(epoch):
        return
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "wait":
        say("waiting")
        time.sleep(60)
    if kind in ERRORS:
        say("Traceback (most recent call last):", ERRORS[kind], sep="\n")
        sys.exit(1)


def train(n_done: int, *, resumed: bool) -> None:
    for number in range(n_done, N_EPOCHS):
        if not resumed:
            trouble(number)
        say(LINES.format(number=number))
        save("latest", number + 1)
    save("final", N_EPOCHS)
    (FOLD / "checkpoint_latest.pth").unlink()


def main() -> None:
    arguments = sys.argv[1:]
    with Path(os.environ["FAKE_CALLS"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    FOLD.mkdir(parents=True, exist_ok=True)
    (FOLD / "debug.json").write_text(json.dumps({"num_epochs": str(N_EPOCHS)}))
    if "split" in os.environ.get("FAKE_TROUBLE", ""):
        say(
            "INFO: You requested fold 7 for training but splits contain only 5 folds. I am now creating a "
            "random (but seeded) 80:20 split!"
        )
    if "--val" not in arguments:
        found = [name for name in ("final", "latest", "best") if (FOLD / f"checkpoint_{name}.pth").exists()]
        resumed = "--c" in arguments
        assert resumed == bool(found), f"--c where there is a checkpoint, and only there: {found}"
        train(load(found[0]) if found else 0, resumed=resumed)
    if os.environ.get("FAKE_TROUBLE") == "lazy":
        return
    assert load("final") == N_EPOCHS
    (FOLD / "validation").mkdir(exist_ok=True)
    (FOLD / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": 0.5}}))


if __name__ == "__main__":
    main()
