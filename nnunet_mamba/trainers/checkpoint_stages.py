"""NNUNET_MAMBA_CHECKPOINT_STAGES, which sets `checkpoint_stages` without a trainer of one's own."""

import os

CHECKPOINT_STAGES = "NNUNET_MAMBA_CHECKPOINT_STAGES"


def asked_checkpoint_stages(otherwise: int | str) -> int | str:
    """The variable's value, `otherwise` where it is not set. ValueError if it is no number and not "all"."""
    text = os.environ.get(CHECKPOINT_STAGES, "").strip()
    if not text:
        return otherwise
    if text != "all" and not text.isdecimal():
        raise ValueError(
            f'{CHECKPOINT_STAGES} is {text!r}; expected "all" or a number of stages, 0 for none. '
            f"Correct the variable, or unset it."
        )
    return text if text == "all" else int(text)


def refuse_checkpoint_stages(network: str) -> None:
    """ValueError if the variable asks for what a network of another package does not offer."""
    if asked_checkpoint_stages(0) != 0:
        raise ValueError(
            f"{CHECKPOINT_STAGES} is {os.environ[CHECKPOINT_STAGES]!r}, but the stages of {network} "
            f"cannot be recomputed from here. Unset the variable, or set it to 0."
        )
