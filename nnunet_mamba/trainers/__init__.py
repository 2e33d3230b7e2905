"""The trainers, by the names that go after `-tr` in nnU-Net's commands.

nnUNetTrainerX             X, a network of the family, a paper's recipe, an ablation or a baseline
nnUNetTrainerXNoSSM        its twin whose mixers are the identity: the ablation that the field asks for first
nnUNetTrainerX_NoDecaySSM  without weight decay on A and D of the state space model

Each comes in nnU-Net's usual lengths (`..._100epochs`). Networks that take their topology from the plans also
come as `..._demo`: plans cut to a small patch and network, for a first run on a CPU. Networks of fixed
topology, which cannot be made small, recipes of papers and baselines have no demo.

nnUNetTrainerControl, in the same lengths, is nnU-Net's own network and recipe under the guards of the others.
"""

from itertools import chain

from nnunet_mamba.host import version_fault

if _fault := version_fault():
    raise ImportError(_fault, name="nnunetv2")

from nnunet_mamba.trainers.ablations import ABLATIONS  # after the check: they need the right nnU-Net
from nnunet_mamba.trainers.baselines import BASELINES
from nnunet_mamba.trainers.control import nnUNetTrainerControl
from nnunet_mamba.trainers.family import FIXED, PLANNED
from nnunet_mamba.trainers.papers import PAPERS
from nnunet_mamba.trainers.variants import by_name, family_of, in_every_length

_members = by_name(
    chain(
        chain.from_iterable(family_of(trainer, demo=True) for trainer in (*PLANNED, *ABLATIONS)),
        chain.from_iterable(family_of(trainer, demo=False) for trainer in (*FIXED, *PAPERS)),
        chain.from_iterable(in_every_length(trainer) for trainer in (*BASELINES, nnUNetTrainerControl)),
    ),
    __name__,
)
globals().update(_members)  # as attributes of this module nnU-Net finds them, and pickle too

__all__ = list(_members)
