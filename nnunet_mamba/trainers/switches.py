"""What the environment may ask of any trainer here, read when it is constructed."""

import os
from dataclasses import dataclass

SAVE_EVERY = "NNUNET_MAMBA_SAVE_EVERY"
THREADS = "NNUNET_MAMBA_THREADS"
SEED = "NNUNET_MAMBA_SEED"
PROGRESS = "NNUNET_MAMBA_PROGRESS"


@dataclass(frozen=True)
class Switches:
    """None: the variable is not set, and everything stays nnU-Net's.

    save_every   epochs from one checkpoint_latest.pth to the next
    threads      of torch, and so of our kernels, in this process
    seed         see `seeding`
    progress_s   seconds from one line about the steps of an epoch to the next, on the console
    """

    save_every: int | None
    threads: int | None
    seed: int | None
    progress_s: int | None = None


def asked_switches() -> Switches:
    """ValueError for a value that is no number, or too small a one."""
    return Switches(
        save_every=_number(SAVE_EVERY, 1, "epochs from one checkpoint to the next"),
        threads=_number(THREADS, 1, "threads"),
        seed=_number(SEED, 0, "the seed"),
        progress_s=_number(PROGRESS, 1, "seconds from one line about steps to the next"),
    )


def _number(variable: str, least: int, meaning: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise ValueError(
            f"{variable} is {text!r}; expected a whole number from {least} on: {meaning}. "
            f"Correct the variable, or unset it."
        )
    return int(text)
