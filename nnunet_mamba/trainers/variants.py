"""Variants of every trainer, made by rule: a suffix is added to the name, class attributes are changed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from nnunet_mamba.networks.family import get_config
from nnunet_mamba.networks.mixer_config import Mixer
from nnunet_mamba.nnunet.catalogue import DEMO, EPOCHS, LENGTHS, NETWORKS, NO_DECAY, NO_SSM, SMOKE, TWIN
from nnunet_mamba.trainers.base import GuardedTrainer
from nnunet_mamba.trainers.mamba import MambaTrainer

Trainer = TypeVar("Trainer", bound=type[GuardedTrainer])

DEMO_SETTINGS: Mapping[str, Any] = {
    "num_epochs": 20,
    "num_iterations_per_epoch": 20,
    "num_val_iterations_per_epoch": 4,
    "initial_lr": 1e-1,
    "save_every": 1,  # an interrupted demo resumes with `--c`
}
DEMO_MOMENTUM = 0.9  # nnU-Net's 0.99 remembers 100 steps, a quarter of the demo
SMOKE_SETTINGS: Mapping[str, Any] = {
    "num_epochs": 1,
    "num_iterations_per_epoch": 4,
    "num_val_iterations_per_epoch": 2,
}


def make_variant(trainer: Trainer, suffix: str, *, doc: str | None = None, **changes: Any) -> Trainer:
    """Return a subclass of `trainer` with a suffix to its name and some class attributes changed.

    `settings` are added to those of `trainer`, all other attributes replace its own, `doc` its docstring.
    """
    if "settings" in changes:
        changes["settings"] = {**trainer.settings, **changes["settings"]}
    body = {**changes, "__module__": trainer.__module__, "__doc__": doc or trainer.__doc__}
    return type(trainer.__name__ + suffix, (trainer,), body)  # type: ignore[return-value]


def make_twin(trainer: type[MambaTrainer]) -> type[MambaTrainer]:
    """Return the same trainer for the twin, the network without SSM; overrides of the mixer are dropped."""
    mixer_fields = {"mixer", *(field.name for field in fields(Mixer))}
    overrides = {name: value for name, value in trainer.overrides.items() if name not in mixer_fields}
    return make_variant(trainer, TWIN, network_name=trainer.network_name + NO_SSM, overrides=overrides)


def has_same_twin_as_base(trainer: type[MambaTrainer]) -> bool:
    """Return whether the trainer and its base class have the same twin."""
    parent: Any = trainer.__base__
    if getattr(parent, "network_name", None) != trainer.network_name or parent.recipe is not trainer.recipe:
        return False
    own, other = (
        get_config(each.network_name).with_overrides(**each.overrides).without_ssm()
        for each in (trainer, parent)
    )
    return own == other


def has_state_to_spare(trainer: type[MambaTrainer]) -> bool:
    """Return whether its mixers are its network's own, and have A and D, which weight decay may spare."""
    return "mixer" not in trainer.overrides and NETWORKS[trainer.network_name].has_state


def make_family(trainer: type[MambaTrainer], *, demo: bool) -> Iterator[type[GuardedTrainer]]:
    """Yield the trainer, its twin, and the trainer without weight decay on the SSM, each in every length.

    A trainer that differs from its base class in its mixers alone has no twin of its own, and one without
    state to spare none without weight decay on it.
    """
    for full in (trainer,) if has_same_twin_as_base(trainer) else (trainer, make_twin(trainer)):
        yield from make_lengths_and_smoke_test(full)
        if demo:
            recipe = replace(full.recipe, options={**full.recipe.options, "momentum": DEMO_MOMENTUM})
            yield make_variant(full, DEMO, settings=DEMO_SETTINGS, recipe=recipe, plans_template="cpu")
    if has_state_to_spare(trainer):
        yield from make_lengths(make_variant(trainer, NO_DECAY, no_decay_ssm=True))


def make_lengths_and_smoke_test(trainer: type[GuardedTrainer]) -> Iterator[type[GuardedTrainer]]:
    """Yield the trainer in every length, and as a smoke test of a minute: one epoch of few steps on small
    patches, and the validation of one case."""
    yield from make_lengths(trainer)
    yield make_variant(trainer, SMOKE, settings=SMOKE_SETTINGS, plans_template="cpu", max_validation_cases=1)


def make_lengths(trainer: type[GuardedTrainer]) -> Iterator[type[GuardedTrainer]]:
    """Yield the trainer itself, and in each of nnU-Net's lengths."""
    yield trainer
    for n, length in zip(EPOCHS, LENGTHS, strict=True):
        yield make_variant(trainer, length, settings={"num_epochs": n})


def index_by_name(trainers: Iterable[type[GuardedTrainer]], module: str) -> dict[str, type[GuardedTrainer]]:
    """Return the trainers by name, with `module`, where pickle will look for them, as their module."""
    table = {}
    for trainer in trainers:
        trainer.__module__ = module
        table[trainer.__name__] = trainer
    return table
