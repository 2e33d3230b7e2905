"""VMamba's ImageNet weights at the start of training, where the user names their file."""

import os
from pathlib import Path

from torch import nn

from nnunet_mamba.checkpoints.convert import select_weights
from nnunet_mamba.checkpoints.vmamba import NETWORKS, load_vmamba
from nnunet_mamba.io.torch_load import load_restricted

VARIABLE = "NNUNET_MAMBA_VMAMBA"


def start_from_vmamba(network: nn.Module, network_name: str, *, has_weights: bool) -> str | None:
    """Fill the network with the weights of the file that VARIABLE names; what there is to say in the log.

    None for networks that VMamba's weights are not for. Without the variable the network stays as it is, and
    so it does with `has_weights`: then a checkpoint or nnU-Net's -pretrained_weights has filled it.
    Raises ValueError, before any training, for a file that is missing, of another version or unfit.
    """
    if network_name not in NETWORKS:
        return None
    path = os.environ.get(VARIABLE)
    if has_weights:
        return f"{VARIABLE} is set, but not used: the network has been filled before." if path else None
    if not path:
        return (
            f"Training {network_name} from scratch. Its paper starts from VMamba's ImageNet weights: set "
            f"{VARIABLE} to the file vssmtiny_dp01_ckpt_epoch_292.pth (or the small one) to do so."
        )
    weights = select_weights(load_restricted(Path(path).expanduser()), path)
    return f"{load_vmamba(network, weights.tensors, network_name)} From {path}, {weights}."
