"""Methods: trainers with their plans and configuration; their twins without SSM, and the baseline."""

import re
from collections.abc import Sequence

from nnunet_mamba.nnunet.catalogue import PREFIX, parse_trainer
from nnunet_mamba.nnunet.paths import Method

OWN_TRAINER = re.compile(rf"{PREFIX}(Control)?(_\d+epochs?)?")  # nnU-Net's network and recipe
EPOCHS = re.compile(r"_(\d+epochs?|demo|smoke)$")


def training_length(method: Method) -> str:
    """Return the length that the trainer's name states: "100epochs", "demo", or "" for its own."""
    found = EPOCHS.search(method.trainer)
    return found[1] if found else ""


def shorten_method_names(methods: Sequence[Method]) -> list[str]:
    """Return the parts of each method that differ among them; trainers without nnU-Net's prefix."""
    columns = list(zip(*(method for method in methods), strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1] or [0]
    short = ["__".join(_shortened(method[i], i) for i in differing) for method in methods]
    return short if len(set(short)) == len(methods) else [str(method) for method in methods]


def _shortened(part: str, column: int) -> str:
    if column != 0 or not part.startswith(PREFIX):
        return part
    rest = part.removeprefix(PREFIX)
    return f"nnUNet{rest}" if OWN_TRAINER.fullmatch(part) else rest


def find_twin(method: Method, methods: Sequence[Method]) -> Method | None:
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
        if name.without_ssm and name.twin_key == own.twin_key and other[1:] == method[1:]:
            twins.append((name.base != own.base, name.words != own.words, other))
    return min(twins)[2] if twins else None


def choose_baseline(methods: Sequence[Method], name: str | None = None) -> Method:
    """Return the method of this name (short, full or trainer's); by default nnU-Net's own, or the first."""
    if name is None:
        own = [method for method in methods if OWN_TRAINER.fullmatch(method.trainer)]
        return min(own, key=lambda method: method.plans != "nnUNetPlans", default=methods[0])
    names = shorten_method_names(methods)
    known = [{short, method.trainer, str(method)} for short, method in zip(names, methods, strict=True)]
    found = [method for method, names_of in zip(methods, known, strict=True) if name in names_of]
    if len(found) == 1:
        return found[0]
    problem = "is the name of several methods" if found else "is not a method of these tables"
    raise ValueError(f"The baseline {name!r} {problem}; choose one of {', '.join(names)}.")
