"""nnU-Net's plans: networks of their sizes, and plans of other sizes, networks and budgets.

Plans are nnU-Net's own JSON of a dataset (spacing, patch, batch, topology per configuration). Functions here
never change the plans that they are given.
"""

from nnunet_mamba.nnunet.templates import load_template
from nnunet_mamba.plans.apply import shrink_plans
from nnunet_mamba.plans.architecture import network_kwargs, network_sizes

__all__ = ["load_template", "network_kwargs", "network_sizes", "shrink_plans"]
