"""Trainers, by the names that go after `-tr` in nnU-Net's commands.

nnUNetTrainerX             X, a network of the family, also with other mixers (_Mamba2), a paper's recipe, an
                           ablation or a baseline
nnUNetTrainerXNoSSM        its twin: the same network without SSM, its mixers replaced by the identity
nnUNetTrainerX_NoDecaySSM  without weight decay on A and D of its own state space model, if it has one

Each comes in nnU-Net's lengths (`..._100epochs`), and but for the last as `..._smoke`: a test of a minute
whether a dataset can be trained on and validated. Networks that take their topology from the plans also come
as `..._demo`: plans cut to a small patch and network, for a first run on a CPU. Networks of fixed topology,
which cannot be made small, recipes of papers and baselines have no demo. `nnunet-mamba trainers` lists all.

nnUNetTrainerControl, in the same lengths, is nnU-Net's own network and recipe under the guards of the others.
"""

import atexit
import sys
from itertools import chain
from typing import Any

from nnunet_mamba.nnunet.catalogue import NOT_FOUND, format_unknown_trainer
from nnunet_mamba.nnunet.version import find_version_problem

if _fault := find_version_problem():
    raise ImportError(_fault, name="nnunetv2")

# after the check, for these need the right nnU-Net
from nnunet_mamba.trainers.ablations import ABLATIONS, OTHER_MIXERS
from nnunet_mamba.trainers.baselines import BASELINES, nnUNetTrainerControl
from nnunet_mamba.trainers.networks import FIXED, PLANNED
from nnunet_mamba.trainers.papers import PAPERS
from nnunet_mamba.trainers.variants import index_by_name, make_family, make_lengths_and_smoke_test

_others = (*BASELINES, nnUNetTrainerControl)
_members = index_by_name(
    chain(
        chain.from_iterable(
            make_family(trainer, demo=not issubclass(trainer, FIXED))
            for trainer in (*PLANNED, *FIXED, *ABLATIONS, *OTHER_MIXERS)
        ),
        chain.from_iterable(make_family(trainer, demo=False) for trainer in PAPERS),
        chain.from_iterable(make_lengths_and_smoke_test(trainer) for trainer in _others),
    ),
    __name__,
)
globals().update(_members)  # nnU-Net and pickle find them as attributes of this module

__all__ = list(_members)


_looked_for: set[str] = set()


def __getattr__(name: str) -> Any:
    """Record a name that nnU-Net does not find here: if its search fails, a suggestion follows its error."""
    if not name.startswith("_") and name not in _looked_for:
        _looked_for.add(name)
        atexit.register(_suggest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _suggest(name: str) -> None:
    """Write the trainers whose names are close to `name`, if nnU-Net ended with the error that it has
    none."""
    error = getattr(sys, "last_value", None)  # the error that ended the program, if any
    if isinstance(error, RuntimeError) and str(error).startswith(f"{NOT_FOUND} {name} "):
        sys.stderr.write(f"\nnnunet_mamba: {format_unknown_trainer(name)}\n")
