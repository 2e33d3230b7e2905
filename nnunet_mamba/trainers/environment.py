"""Environment variables that change how every trainer of this package trains.

They are read when a trainer is constructed, but for the stages and the precision of the network, which are
read when it is built. A variable that is unset or empty changes nothing.
"""

import os
from dataclasses import dataclass

from nnunet_mamba.nnunet.commands import PROGRESS
from nnunet_mamba.ops.precision import PRECISIONS

SAVE_EVERY = "NNUNET_MAMBA_SAVE_EVERY"
THREADS = "NNUNET_MAMBA_THREADS"
SEED = "NNUNET_MAMBA_SEED"
CHECKPOINT_STAGES = "NNUNET_MAMBA_CHECKPOINT_STAGES"
MIXER_PRECISION = "NNUNET_MAMBA_MIXER_PRECISION"
VMAMBA = "NNUNET_MAMBA_VMAMBA"  # a file of weights; see `mamba.initialize_from_vmamba`


@dataclass(frozen=True)
class EnvironmentSettings:
    """Settings from environment variables; None where the variable is not set, which leaves nnU-Net's value.

    save_every   epochs from one checkpoint_latest.pth to the next
    threads      threads of torch, and so of our kernels, in this process
    seed         see `reproducibility`
    progress_s   seconds from one line about the steps of an epoch to the next, on the console
    """

    save_every: int | None
    threads: int | None
    seed: int | None
    progress_s: int | None = None

    @classmethod
    def from_environ(cls) -> "EnvironmentSettings":
        """Read the variables. Raises ValueError for a value that is not a whole number, or is too small."""
        return cls(
            save_every=_read_number(SAVE_EVERY, 1, "epochs from one checkpoint to the next"),
            threads=_read_number(THREADS, 1, "threads"),
            seed=_read_number(SEED, 0, "the seed"),
            progress_s=_read_number(PROGRESS, 1, "seconds from one line about steps to the next"),
        )


def read_checkpoint_stages(default: int | str) -> int | str:
    """Return NNUNET_MAMBA_CHECKPOINT_STAGES, or `default` where it is not set.

    Raises ValueError unless it is "all" or a number of stages.
    """
    text = _read(CHECKPOINT_STAGES)
    if not text:
        return default
    if text != "all" and not text.isdecimal():
        raise ValueError(
            f'{CHECKPOINT_STAGES} is {text!r}; expected "all" or a number of stages, 0 for none. '
            f"Correct the variable, or unset it."
        )
    return text if text == "all" else int(text)


def check_no_checkpoint_stages(network: str) -> None:
    """Raise ValueError if NNUNET_MAMBA_CHECKPOINT_STAGES is set for a network of another package, which
    cannot recompute its stages."""
    if read_checkpoint_stages(0) != 0:
        raise ValueError(
            f"{CHECKPOINT_STAGES} is {os.environ[CHECKPOINT_STAGES]!r}, but the stages of {network} "
            f"cannot be recomputed from here. Unset the variable, or set it to 0."
        )


def read_mixer_precision(default: str | None) -> str | None:
    """Return NNUNET_MAMBA_MIXER_PRECISION, or `default` where it is not set.

    Raises ValueError unless it is one of `ops.precision.PRECISIONS`.
    """
    text = _read(MIXER_PRECISION)
    if not text:
        return default
    if text not in PRECISIONS:
        raise ValueError(
            f"{MIXER_PRECISION} is {text!r}; expected one of {', '.join(PRECISIONS)}. "
            f"Correct the variable, or unset it."
        )
    return text


def _read_number(variable: str, least: int, meaning: str) -> int | None:
    text = _read(variable)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise ValueError(
            f"{variable} is {text!r}; expected a whole number from {least} on: {meaning}. "
            f"Correct the variable, or unset it."
        )
    return int(text)


def _read(variable: str) -> str:
    return os.environ.get(variable, "").strip()
