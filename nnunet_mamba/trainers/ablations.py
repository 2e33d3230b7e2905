"""MM-UNet's ablations [1]: scan orders (B1 to B9, order "B1" to "B9") and placements of the mixer (fig. 1b).

Each is MM-UNet with a word or two changed, and its recipe. The encoder stays convolutional at full
resolution, as in MM-UNet itself.

[1] Xie et al., MM-UNet, arXiv:2503.17540.
"""

from nnunet_mamba.trainers.base import MambaTrainer
from nnunet_mamba.trainers.family import nnUNetTrainerMMUNet
from nnunet_mamba.trainers.variants import variant


class nnUNetTrainerMMUNet_SSMEncBot(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in encoder and bottleneck, as in Swin-UMamba [1, fig. 1b].

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    overrides = {"encoder": ("plain", "ssm"), "bottleneck": "ssm"}  # noqa: RUF012


class nnUNetTrainerMMUNet_SSMAll(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in encoder, bottleneck and decoder, as in VM-UNet [1,
    fig. 1b]. The last decoder stage scans the full resolution: mind the memory.

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    overrides = {"encoder": ("plain", "ssm"), "bottleneck": "ssm", "decoder": ("ssm",)}  # noqa: RUF012


class nnUNetTrainerMMUNet_SSMDecBot(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in bottleneck and decoder [1, fig. 1b]. The last decoder
    stage scans the full resolution: mind the memory.

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    overrides = {"encoder": ("plain", "cnn"), "bottleneck": "ssm", "decoder": ("ssm",)}  # noqa: RUF012


class nnUNetTrainerMMUNet_HybridOutside(nnUNetTrainerMMUNet):
    """MM-UNet with the mixer behind the residual block instead of within, as in U-Mamba [1, fig. 1b]; here it
    has a residual of its own, which U-Mamba's has not.

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    overrides = {"encoder": ("plain", "hybrid_outside"), "bottleneck": "hybrid_outside"}  # noqa: RUF012


SCAN_ORDERS = tuple(f"B{row}" for row in range(1, 10))
ABLATIONS: tuple[type[MambaTrainer], ...] = (
    *(variant(nnUNetTrainerMMUNet, f"_{order}", overrides={"order": order}) for order in SCAN_ORDERS),
    nnUNetTrainerMMUNet_SSMEncBot,
    nnUNetTrainerMMUNet_SSMAll,
    nnUNetTrainerMMUNet_SSMDecBot,
    nnUNetTrainerMMUNet_HybridOutside,
)
