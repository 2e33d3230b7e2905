"""NNUNET_MAMBA_MIXER_PRECISION, which sets `mixer_precision` without a trainer of one's own."""

import os

from nnunet_mamba.ops.precision import PRECISIONS

MIXER_PRECISION = "NNUNET_MAMBA_MIXER_PRECISION"


def asked_mixer_precision(otherwise: str | None) -> str | None:
    """The variable's value, `otherwise` where it is not set. ValueError for a word that is none."""
    word = os.environ.get(MIXER_PRECISION, "").strip()
    if not word:
        return otherwise
    if word not in PRECISIONS:
        raise ValueError(
            f"{MIXER_PRECISION} is {word!r}; expected one of {', '.join(PRECISIONS)}. "
            f"Correct the variable, or unset it."
        )
    return word
