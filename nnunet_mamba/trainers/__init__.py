"""The trainers, by the names that go after `-tr` in nnU-Net's commands.

Each trainer comes with a twin whose mixers are the identity (`...NoSSM`, the ablation that the field asks for
first), and both come in nnU-Net's usual lengths (`..._100epochs`) and as `..._demo`: plans cut to a small
patch and network, for a first run on a CPU. To add a trainer, write its class and name it in `_TRAINERS`.
"""

from collections.abc import Mapping
from typing import Any

from nnunet_mamba.host import version_fault

if _fault := version_fault():
    raise ImportError(_fault, name="nnunetv2")

from nnunet_mamba.trainers.base import MambaTrainer  # after the check: it needs the right nnU-Net


class nnUNetTrainerMMUNet(MambaTrainer):
    """MM-UNet by its paper's recipe [1, section 4]: lower learning rate, the three largest scales supervised.

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    network_name = "mm_unet"
    settings = {"initial_lr": 1e-3}  # noqa: RUF012
    n_supervised_scales = 3


class nnUNetTrainerUMambaBot(MambaTrainer):
    """U-Mamba Bot [1] by nnU-Net's recipe, as its authors train it.

    [1] Ma et al., U-Mamba, arXiv:2401.04722.
    """

    network_name = "umamba_bot"


_TRAINERS: tuple[type[MambaTrainer], ...] = (nnUNetTrainerMMUNet, nnUNetTrainerUMambaBot)
_DEMO = {
    "num_epochs": 30,
    "num_iterations_per_epoch": 40,
    "num_val_iterations_per_epoch": 5,
    "initial_lr": 1e-2,  # 1200 steps are too few for less
    "save_every": 1,  # an interrupted demo goes on with `--c`
}
_LENGTHS: Mapping[str, Mapping[str, Any]] = {
    **{f"_{n}epochs": {"settings": {"num_epochs": n}} for n in (5, 10, 50, 100, 250)},
    "_demo": {"settings": _DEMO, "plans_template": "demo"},
}


def _variant(trainer: type[MambaTrainer], suffix: str, changes: Mapping[str, Any]) -> type[MambaTrainer]:
    """A subclass of `trainer` with its name lengthened by `suffix` and some class attributes changed."""
    body = {**changes, "__module__": __name__, "__doc__": trainer.__doc__}
    if "settings" in changes:
        body["settings"] = {**trainer.settings, **changes["settings"]}
    return type(trainer.__name__ + suffix, (trainer,), body)


def _family(trainer: type[MambaTrainer]) -> list[type[MambaTrainer]]:
    """The trainer and its twin, each in every length."""
    twin = _variant(trainer, "NoSSM", {"network_name": f"{trainer.network_name}_nossm"})
    return [
        member
        for full in (trainer, twin)
        for member in (full, *(_variant(full, suffix, changes) for suffix, changes in _LENGTHS.items()))
    ]


_members = {member.__name__: member for trainer in _TRAINERS for member in _family(trainer)}
globals().update(_members)  # as attributes of this module nnU-Net finds them, and pickle too

__all__ = list(_members)
