"""Methods: trainers with their plans and configuration; their short names, twins and baseline."""

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
    """Trained model without its fold, named as in nnU-Net's results folder."""

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return "__".join(astuple(self))

    @property
    def length(self) -> str:
        """Return the length of training in the name: "100epochs", "demo", or "" for the trainer's default."""
        found = EPOCHS.search(self.trainer)
        return found[1] if found else ""


def short_names(methods: Sequence[Method]) -> list[str]:
    """Return the parts of each method that differ among them; trainers without nnU-Net's prefix."""
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
    """Return the same network without SSM, by the same plans and configuration, if it is among `methods`."""
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
    """Yield the trainers whose twins are the same network as this one's."""
    for group in ONE_WITHOUT_SSM:
        if found := re.match(rf"{PREFIX}({'|'.join(group)})(?=_|$)", trainer):
            yield from (f"{PREFIX}{name}{trainer[found.end() :]}" for name in group)


def choose_baseline(methods: Sequence[Method], name: str | None = None) -> Method:
    """Return the method of this name (short, full or trainer's); by default nnU-Net's own, or the first."""
    if name is None:
        own = [method for method in methods if OWN_TRAINER.fullmatch(method.trainer)]
        return min(own, key=lambda method: method.plans != "nnUNetPlans", default=methods[0])
    names = short_names(methods)
    known = [{short, method.trainer, str(method)} for short, method in zip(names, methods, strict=True)]
    found = [method for method, names_of in zip(methods, known, strict=True) if name in names_of]
    if len(found) == 1:
        return found[0]
    problem = "is the name of several methods" if found else "is not a method of these tables"
    raise ValueError(f"The baseline {name!r} {problem}; choose one of {', '.join(names)}.")
