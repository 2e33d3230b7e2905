"""Who is compared: a method is a trainer with its plans and configuration; a twin has NoSSM in its name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

from nnunet_mamba.nnunet.catalogue import NO_DECAY, PREFIX, TWIN

OWN_TRAINER = re.compile(rf"{PREFIX}(Control)?(_\d+epochs?)?")  # nnU-Net's network and recipe
MIXER_WORD = re.compile(  # without an SSM nothing is left of these words: their twin is the network's own
    r"_(B[1-9]|multi|HybridOutside|bare|residual|norm|scaled)(?=_|$)"
)
ONE_WITHOUT_SSM = (("UMambaBot", "UMambaEnc"), ("MambaUni", "MambaBi", "MambaMulti"))  # a network each
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
    """The same network without SSM, under the same plans and configuration, if it is among `methods`."""
    if TWIN in method.trainer:
        return None
    plain = method.trainer.replace(NO_DECAY, "")  # without an SSM there is nothing to spare from decay
    twins = {
        other.trainer.replace(f"_{TWIN}", "").replace(TWIN, ""): other
        for other in methods
        if TWIN in other.trainer and astuple(other)[1:] == astuple(method)[1:]
    }
    names = (plain, MIXER_WORD.sub("", plain), *_alike_without_ssm(MIXER_WORD.sub("", plain)))
    return next((twins[name] for name in names if name in twins), None)


def _alike_without_ssm(trainer: str) -> Iterator[str]:
    """Trainers whose twins are the same network as this one's."""
    for group in ONE_WITHOUT_SSM:
        if found := re.match(rf"{PREFIX}({'|'.join(group)})(?=_|$)", trainer):
            yield from (f"{PREFIX}{name}{trainer[found.end() :]}" for name in group)


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
