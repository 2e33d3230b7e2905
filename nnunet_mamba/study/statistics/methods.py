"""Methods: trainers with their plans and configuration; their twins without SSM, and the baseline."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from nnunet_mamba.nnunet.catalogue import PREFIX, parse_trainer

OWN_TRAINER = re.compile(rf"{PREFIX}(Control)?(_\d+epochs?)?")  # nnU-Net's network and recipe
EPOCHS = re.compile(r"_(\d+epochs?|demo|smoke)$")


@dataclass(frozen=True, order=True)
class Method:
    """What was trained, in the names of nnU-Net's results folder."""

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return "__".join(astuple(self))

    @property
    def length(self) -> str:
        """The length of training that the name states: "100epochs", "demo", or "" for the trainer's own."""
        found = EPOCHS.search(self.trainer)
        return found[1] if found else ""


def short_names(methods: Sequence[Method]) -> list[str]:
    """The parts of each method that differ among them; trainers without nnU-Net's prefix."""
    columns = list(zip(*(astuple(method) for method in methods), strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1] or [0]
    short = ["__".join(_shortened(astuple(method)[i], i) for i in differing) for method in methods]
    return short if len(set(short)) == len(methods) else [str(method) for method in methods]


def _shortened(part: str, column: int) -> str:
    if column != 0 or not part.startswith(PREFIX):
        return part
    rest = part.removeprefix(PREFIX)
    return f"nnUNet{rest}" if OWN_TRAINER.fullmatch(part) else rest


def twin_of(method: Method, methods: Sequence[Method]) -> Method | None:
    """Return the same network without SSM, under the same recipe, plans and configuration, if it is among
    `methods`; None if it is not, or the method has no SSM itself.

    Of several that are one network the one closest in its name is taken.
    """
    own = parse_trainer(method.trainer)
    if own.without_ssm:
        return None
    twins = []
    for other in methods:
        name = parse_trainer(other.trainer)
        comparable = astuple(other)[1:] == astuple(method)[1:] and name.twin_key() == own.twin_key()
        if name.without_ssm and comparable:
            twins.append((name.base != own.base, name.words != own.words, other))
    return min(twins)[2] if twins else None


def choose_baseline(methods: Sequence[Method], wanted: str | None = None) -> Method:
    """The method of this name, short, of its trainer or in full; by default nnU-Net's own, else the first."""
    if wanted is None:
        own = [method for method in methods if OWN_TRAINER.fullmatch(method.trainer)]
        return min(own, key=lambda method: method.plans != "nnUNetPlans", default=methods[0])
    names = short_names(methods)
    known = [{name, method.trainer, str(method)} for name, method in zip(names, methods, strict=True)]
    found = [method for method, names_of in zip(methods, known, strict=True) if wanted in names_of]
    if len(found) == 1:
        return found[0]
    trouble = "is the name of several methods" if found else "is no method of these tables"
    raise ValueError(f"The baseline {wanted!r} {trouble}; choose one of {', '.join(names)}.")
