"""The trainers, by the names that go after `-tr` in nnU-Net's commands.

nnUNetTrainerX             X, a network of the family, a paper's recipe, an ablation or a baseline
nnUNetTrainerXNoSSM        its twin whose mixers are the identity: the ablation that the field asks for first
nnUNetTrainerX_NoDecaySSM  without weight decay on A and D of the state space model

Each comes in nnU-Net's lengths (`..._100epochs`), and but for the last as `..._smoke`: a minute that shows
whether a dataset passes the whole chain. Networks that take their topology from the plans also come as
`..._demo`: plans cut to a small patch and network, for a first run on a CPU. Networks of fixed topology,
which cannot be made small, recipes of papers and baselines have no demo. `nnunet-mamba trainers` lists all.

nnUNetTrainerControl, in the same lengths, is nnU-Net's own network and recipe under the guards of the others.
"""

import atexit
import sys
from itertools import chain
from typing import Any

from nnunet_mamba.nnunet.catalogue import NOT_FOUND, no_trainer
from nnunet_mamba.nnunet.version import version_problem

if _fault := version_problem():
    raise ImportError(_fault, name="nnunetv2")

from nnunet_mamba.trainers.ablations import ABLATIONS  # after the check: they need the right nnU-Net
from nnunet_mamba.trainers.baselines import BASELINES
from nnunet_mamba.trainers.control import nnUNetTrainerControl
from nnunet_mamba.trainers.family import FIXED, PLANNED
from nnunet_mamba.trainers.papers import PAPERS
from nnunet_mamba.trainers.variants import by_name, family_of, with_smoke_test

_members = by_name(
    chain(
        chain.from_iterable(family_of(trainer, demo=True) for trainer in (*PLANNED, *ABLATIONS)),
        chain.from_iterable(family_of(trainer, demo=False) for trainer in (*FIXED, *PAPERS)),
        chain.from_iterable(with_smoke_test(trainer) for trainer in (*BASELINES, nnUNetTrainerControl)),
    ),
    __name__,
)
globals().update(_members)  # as attributes of this module nnU-Net finds them, and pickle too

__all__ = list(_members)


_looked_for: set[str] = set()


def __getattr__(name: str) -> Any:
    """Remember what nnU-Net looks for here in vain: if its search fails, a suggestion follows its error."""
    if not name.startswith("_") and name not in _looked_for:
        _looked_for.add(name)
        atexit.register(_suggest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _suggest(name: str) -> None:
    error = getattr(sys, "last_value", None)  # what ended the program, if that was an error
    if isinstance(error, RuntimeError) and str(error).startswith(f"{NOT_FOUND} {name} "):
        sys.stderr.write(f"\nnnunet_mamba: {no_trainer(name)}\n")
