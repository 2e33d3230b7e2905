"""What every trainer comes in besides itself, by rule: names are lengthened, class attributes changed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from nnunet_mamba.networks.config import Mixer
from nnunet_mamba.networks.family import NO_SSM
from nnunet_mamba.trainers.base import MambaTrainer
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer

Trainer = TypeVar("Trainer", bound=type[GuardedTrainer])

EPOCHS = (5, 10, 50, 100, 250)
DEMO: Mapping[str, Any] = {
    "num_epochs": 30,
    "num_iterations_per_epoch": 40,
    "num_val_iterations_per_epoch": 5,
    "initial_lr": 1e-2,  # 1200 steps are too few for less
    "save_every": 1,  # an interrupted demo goes on with `--c`
}


def variant(trainer: Trainer, suffix: str, **changes: Any) -> Trainer:
    """A subclass of `trainer` with its name lengthened and some class attributes changed; `settings` add."""
    if "settings" in changes:
        changes["settings"] = {**trainer.settings, **changes["settings"]}
    body = {**changes, "__module__": trainer.__module__, "__doc__": trainer.__doc__}
    return type(trainer.__name__ + suffix, (trainer,), body)  # type: ignore[return-value]


def twin(trainer: type[MambaTrainer]) -> type[MambaTrainer]:
    """The same trainer for the network without SSM; what it overrides of the mixer falls away."""
    of_mixer = {f.name for f in fields(Mixer)}
    overrides = {name: value for name, value in trainer.overrides.items() if name not in of_mixer}
    return variant(trainer, "NoSSM", network_name=trainer.network_name + NO_SSM, overrides=overrides)


def family_of(trainer: type[MambaTrainer], *, demo: bool) -> Iterator[type[GuardedTrainer]]:
    """The trainer, its twin, and itself without weight decay on the SSM, each in every length."""
    for full in (trainer, twin(trainer)):
        yield from in_every_length(full)
        if demo:
            yield variant(full, "_demo", settings=DEMO, plans_template="cpu")
    yield from in_every_length(variant(trainer, "_NoDecaySSM", no_decay_ssm=True))


def in_every_length(trainer: type[GuardedTrainer]) -> Iterator[type[GuardedTrainer]]:
    yield trainer
    for n in EPOCHS:
        yield variant(trainer, f"_{n}epochs", settings={"num_epochs": n})


def by_name(trainers: Iterable[type[GuardedTrainer]], module: str) -> dict[str, type[GuardedTrainer]]:
    """A table of the trainers, all declared to live in `module`, where pickle will look for them."""
    table = {}
    for trainer in trainers:
        trainer.__module__ = module
        table[trainer.__name__] = trainer
    return table
