"""What every trainer comes in besides itself, by rule: names are lengthened, class attributes changed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from nnunet_mamba.networks.config import Mixer
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.nnunet.catalogue import DEMO, EPOCHS, LENGTHS, NO_DECAY, NO_SSM, SMOKE, TWIN
from nnunet_mamba.trainers.base import MambaTrainer
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer

Trainer = TypeVar("Trainer", bound=type[GuardedTrainer])

DEMO_SETTINGS: Mapping[str, Any] = {
    "num_epochs": 20,
    "num_iterations_per_epoch": 20,
    "num_val_iterations_per_epoch": 4,
    "initial_lr": 1e-1,
    "save_every": 1,  # an interrupted demo goes on with `--c`
}
DEMO_MOMENTUM = 0.9  # nnU-Net's 0.99 remembers 100 steps, a quarter of the demo
SMOKE_SETTINGS: Mapping[str, Any] = {
    "num_epochs": 1,
    "num_iterations_per_epoch": 4,
    "num_val_iterations_per_epoch": 2,
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
    return variant(trainer, TWIN, network_name=trainer.network_name + NO_SSM, overrides=overrides)


def shares_twin(trainer: type[MambaTrainer]) -> bool:
    """Return whether without SSM the trainer is the one that it is a subclass of."""
    parent: Any = trainer.__base__
    if getattr(parent, "network_name", None) != trainer.network_name or parent.recipe is not trainer.recipe:
        return False
    own, other = (
        get_config(each.network_name).with_overrides(**each.overrides).without_ssm()
        for each in (trainer, parent)
    )
    return own == other


def family_of(trainer: type[MambaTrainer], *, demo: bool) -> Iterator[type[GuardedTrainer]]:
    """Yield the trainer, its twin, and itself without weight decay on the SSM, each in every length.

    A trainer that differs from the one it comes from in its mixers alone shares the twin of that one.
    """
    for full in (trainer,) if shares_twin(trainer) else (trainer, twin(trainer)):
        yield from with_smoke_test(full)
        if demo:
            recipe = replace(full.recipe, options={**full.recipe.options, "momentum": DEMO_MOMENTUM})
            yield variant(full, DEMO, settings=DEMO_SETTINGS, recipe=recipe, plans_template="cpu")
    yield from in_every_length(variant(trainer, NO_DECAY, no_decay_ssm=True))


def with_smoke_test(trainer: type[GuardedTrainer]) -> Iterator[type[GuardedTrainer]]:
    """The trainer in every length, and as a run of a minute that shows whether all goes well: one epoch of
    few steps on small patches, and the validation of one case."""
    yield from in_every_length(trainer)
    yield variant(trainer, SMOKE, settings=SMOKE_SETTINGS, plans_template="cpu", most_validated=1)


def in_every_length(trainer: type[GuardedTrainer]) -> Iterator[type[GuardedTrainer]]:
    yield trainer
    for n, length in zip(EPOCHS, LENGTHS, strict=True):
        yield variant(trainer, length, settings={"num_epochs": n})


def by_name(trainers: Iterable[type[GuardedTrainer]], module: str) -> dict[str, type[GuardedTrainer]]:
    """A table of the trainers, all declared to live in `module`, where pickle will look for them."""
    table = {}
    for trainer in trainers:
        trainer.__module__ = module
        table[trainer.__name__] = trainer
    return table
