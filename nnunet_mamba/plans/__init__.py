"""nnU-Net's plans: what a network needs to know of them, and plans of other sizes, networks and budgets.

A plan is nnU-Net's own JSON of a dataset (spacing, patch, batch, topology per configuration). Nothing here
writes into the plans it is given.
"""

from nnunet_mamba.nnunet.templates import load_template
from nnunet_mamba.plans.architecture import network_kwargs, network_sizes
from nnunet_mamba.plans.budget import shrink_plans

__all__ = ["load_template", "network_kwargs", "network_sizes", "shrink_plans"]
