"""Trainers of networks with something else in the places of their mixers, or with mixers in other places.

ABLATIONS     MM-UNet, by its own recipe, with another scan order or another placement of the mixer
OTHER_MIXERS  networks with other mixers, or convolutions, in the same places
"""

from nnunet_mamba.nnunet import catalogue
from nnunet_mamba.trainers.mamba import MambaTrainer
from nnunet_mamba.trainers.networks import FIXED, PLANNED, nnUNetTrainerMMUNet
from nnunet_mamba.trainers.variants import make_variant

# MM-UNet's ablations: the encoder stays convolutional at full resolution, as in MM-UNet itself


class nnUNetTrainerMMUNet_SSMEncBot(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in encoder and bottleneck, as in Swin-UMamba
    (arXiv:2503.17540, fig. 1b)."""

    overrides = {"encoder": ("plain", "ssm"), "bottleneck": "ssm"}  # noqa: RUF012


class nnUNetTrainerMMUNet_SSMAll(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in encoder, bottleneck and decoder, as in VM-UNet
    (arXiv:2503.17540, fig. 1b). The last decoder stage scans the full resolution: mind the memory."""

    overrides = {"encoder": ("plain", "ssm"), "bottleneck": "ssm", "decoder": ("ssm",)}  # noqa: RUF012


class nnUNetTrainerMMUNet_SSMDecBot(nnUNetTrainerMMUNet):
    """MM-UNet with mixers in place of convolutions in bottleneck and decoder (arXiv:2503.17540, fig. 1b). The
    last decoder stage scans the full resolution: mind the memory."""

    overrides = {"encoder": ("plain", "cnn"), "bottleneck": "ssm", "decoder": ("ssm",)}  # noqa: RUF012


class nnUNetTrainerMMUNet_HybridOutside(nnUNetTrainerMMUNet):
    """MM-UNet with the mixer behind the residual block instead of within, as in U-Mamba (arXiv:2503.17540,
    fig. 1b); here the mixer has a residual of its own, which U-Mamba's has not."""

    overrides = {"encoder": ("plain", "hybrid_outside"), "bottleneck": "hybrid_outside"}  # noqa: RUF012


class nnUNetTrainerMMUNet_DecoderOnly(nnUNetTrainerMMUNet):
    """MM-UNet with its block, mixer within the residual, in the decoder and nowhere else; beyond its paper
    (arXiv:2503.17540). The last decoder stage scans the full resolution: mind the memory."""

    overrides = {"encoder": ("plain", "cnn"), "bottleneck": "cnn", "decoder": ("hybrid_inside",)}  # noqa: RUF012


SCAN_ORDERS = tuple(f"B{row}" for row in range(1, 10))  # rows of MM-UNet's table
ABLATIONS: tuple[type[MambaTrainer], ...] = (
    *(make_variant(nnUNetTrainerMMUNet, f"_{order}", overrides={"order": order}) for order in SCAN_ORDERS),
    nnUNetTrainerMMUNet_SSMEncBot,
    nnUNetTrainerMMUNet_SSMAll,
    nnUNetTrainerMMUNet_SSMDecBot,
    nnUNetTrainerMMUNet_HybridOutside,
    nnUNetTrainerMMUNet_DecoderOnly,
)


# Other global mixers in the places of a network's own, with everything else equal

_BY_NAME = {trainer.__name__: trainer for trainer in (*PLANNED, *FIXED)}


def _with_other_mixers(row: catalogue.TrainerInfo) -> type[MambaTrainer]:
    """Make the trainer of a catalogue's row whose mixers are not its network's own."""
    network = catalogue.NETWORKS[row.network]
    doc = f"{network.title} ({network.paper}) with {row.mixer} in the places of its own mixers."
    overrides = {"mixer": catalogue.MIXER_ENDINGS[row.mixer]}
    return make_variant(_BY_NAME[row.twin], f"_{row.mixer}", doc=doc, overrides=overrides)


OTHER_MIXERS = tuple(_with_other_mixers(row) for row in catalogue.TRAINERS if row.mixer)
