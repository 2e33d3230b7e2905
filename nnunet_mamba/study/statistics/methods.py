"""Methods: trainers with their plans and configuration; which of them are compared, and with which others."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnunet_mamba.nnunet.catalogue import CONDITION, CONV, PREFIX, parse_trainer
from nnunet_mamba.nnunet.paths import Method

OWN_TRAINER = re.compile(rf"{PREFIX}(Control)?(_\d+epochs?)?")  # nnU-Net's network and recipe
EPOCHS = re.compile(r"_(\d+epochs?|demo|smoke)$")
SIZE_MATCHED = re.compile(rf"_{CONV}(?=_|{CONDITION}|$)")


def training_length(method: Method) -> str:
    """Return the length that the trainer's name states: "100epochs", "demo", or "" for its own."""
    found = EPOCHS.search(method.trained.trainer)
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
    return f"nnUNet{rest}" if OWN_TRAINER.fullmatch(part.partition(CONDITION)[0]) else rest


def find_twin(method: Method, methods: Sequence[Method]) -> Method | None:
    """Return the same network without SSM, of the same recipe, plans, configuration and condition, if it is
    among `methods`; None if it is not, or the method has no SSM itself.

    Of several that are one network the one closest in its name is taken.
    """
    own = parse_trainer(method.trainer)
    if own.without_ssm or SIZE_MATCHED.search(method.trainer):
        return None
    twins = []
    for other in methods:
        name = parse_trainer(other.trainer)
        is_alike = name.condition == own.condition and other[1:] == method[1:]
        if name.without_ssm and name.twin_key == own.twin_key and is_alike:
            twins.append((name.base != own.base, name.words != own.words, other))
    return min(twins)[2] if twins else None


def find_size_matched(method: Method, methods: Sequence[Method]) -> Method | None:
    """Return the size-matched twin, MMUNet_Conv of MMUNet, of the same recipe, plans, configuration and
    condition, if it is among `methods`."""
    if SIZE_MATCHED.search(method.trainer):
        return None
    matched = (other for other in methods if SIZE_MATCHED.search(other.trainer))
    return next((other for other in matched if _size_key(other) == _size_key(method)), None)


def _size_key(method: Method) -> tuple[str, ...]:
    """Return what size-matched twins share; NoDecaySSM, which spares an SSM, is nothing to convolutions."""
    parsed = parse_trainer(method.trainer)
    name = SIZE_MATCHED.sub("", "_".join((parsed.base, *parsed.words)))
    return name, parsed.condition, str(parsed.without_ssm), *method[1:]


def find_trained(method: Method, methods: Sequence[Method]) -> Method | None:
    """Return the method as it was trained, of one that was validated under another condition."""
    return method.trained if method.condition and method.trained in methods else None


@dataclass(frozen=True)
class Relation:
    """Kind of pairs of methods, with a family of tests of its own.

    against  title of the family
    other    the other method in a sentence
    column   title of a column of verdicts
    find     returns the other method of one, if it is among these methods
    """

    against: str
    other: str
    column: str
    find: Callable[[Method, Sequence[Method]], Method | None]


TWIN = Relation("against the twin without SSM", "its twin without SSM, {}", "against its twin", find_twin)
SIZE_TWIN = Relation(
    "against the size-matched twin",
    "its size-matched twin, {}",
    "against its size-matched twin",
    find_size_matched,
)
UNDER_CONDITION = Relation(
    "under another condition", "the same network as trained, {}", "against itself as trained", find_trained
)
RELATIONS = (TWIN, SIZE_TWIN, UNDER_CONDITION)
BASELINE = "against the baseline"


def choose_pairs(methods: Sequence[Method], baseline: Method) -> list[tuple[str, Method, Method]]:
    """Return (family, method, other) of each relation, then all with the baseline under the same condition,
    unless those are the same pairs."""
    related = [
        (relation.against, method, other)
        for relation in RELATIONS
        for method in methods
        if (other := relation.find(method, methods)) is not None
    ]
    with_baseline = [(method, baseline.under(method.condition)) for method in methods]
    pairs = [(method, base) for method, base in with_baseline if method != base and base in methods]
    if {frozenset(pair) for pair in pairs} <= {frozenset(pair) for _, *pair in related}:
        pairs = []
    return [*related, *((BASELINE, *pair) for pair in pairs)]


def choose_baseline(methods: Sequence[Method], name: str | None = None) -> Method:
    """Return the method of this name (short, full or trainer's); by default nnU-Net's own, or the first.

    As it was trained, where that is among `methods`: others are compared with it under their own condition.
    """
    if name is None:
        own = [method for method in methods if OWN_TRAINER.fullmatch(method.trained.trainer)]
        return min(own, key=lambda m: (m.condition, m.plans != "nnUNetPlans"), default=methods[0])
    names = shorten_method_names(methods)
    known = [{short, method.trainer, str(method)} for short, method in zip(names, methods, strict=True)]
    found = [method for method, names_of in zip(methods, known, strict=True) if name in names_of]
    if len(found) == 1:
        return find_trained(found[0], methods) or found[0]
    problem = "is the name of several methods" if found else "is not a method of these tables"
    raise ValueError(f"The baseline {name!r} {problem}; choose one of {', '.join(names)}.")
