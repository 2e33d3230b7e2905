"""Trainers of the networks of the family by nnU-Net's recipe, or the nearest to it: MM-UNet by its own.

PLANNED  networks that take their topology from the plans
FIXED    networks that bring their own topology
"""

from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.mamba import MambaTrainer


class nnUNetTrainerMMUNet(MambaTrainer):
    """MM-UNet by its paper's recipe (arXiv:2503.17540, section 4): nnU-Net's SGD from 1e-3, the three largest
    scales supervised with 4/7, 2/7, 1/7."""

    network_name = "mm_unet"
    recipe = recipes.MM_UNET
    n_supervised_scales = 3


class nnUNetTrainerUMambaBot(MambaTrainer):
    """U-Mamba Bot (arXiv:2401.04722) by nnU-Net's recipe, as its authors train it."""

    network_name = "umamba_bot"


class nnUNetTrainerUMambaEnc(MambaTrainer):
    """U-Mamba Enc (arXiv:2401.04722) by nnU-Net's recipe, as its authors train it.

    Their second trainer, without mixed precision, has no counterpart: here mixers compute in float32 anyway,
    in training and in prediction.
    """

    network_name = "umamba_enc"


class nnUNetTrainerMambaUni(MambaTrainer):
    """Taming Mambas' network with one scan (arXiv:2410.15496) by nnU-Net's recipe; ...Paper has the
    paper's."""

    network_name = "mamba_uni"


class nnUNetTrainerMambaBi(MambaTrainer):
    """Taming Mambas' network with two scans (arXiv:2410.15496) by nnU-Net's recipe; ...Paper has the
    paper's."""

    network_name = "mamba_bi"


class nnUNetTrainerMambaMulti(MambaTrainer):
    """Taming Mambas' network with four scans and their reverses (arXiv:2410.15496) by nnU-Net's recipe;
    ...Paper has the paper's. 3D only."""

    network_name = "mamba_multi"


class nnUNetTrainerUMamba2(MambaTrainer):
    """U-Mamba2 (arXiv:2509.12069) by nnU-Net's recipe: the residual encoder U-Net and one layer of Mamba-2.

    Its authors train for 1,500 epochs on dental images, with labels smoothed and classes weighted for these.
    """

    network_name = "umamba2"


class nnUNetTrainerXLSTMUNetBot(MambaTrainer):
    """xLSTM-UNet Bot (arXiv:2407.01530) by nnU-Net's recipe; ...Paper has the authors' learning rate."""

    network_name = "xlstm_unet_bot"


class nnUNetTrainerXLSTMUNetEnc(MambaTrainer):
    """xLSTM-UNet Enc (arXiv:2407.01530) by nnU-Net's recipe; ...Paper has the authors' learning rate."""

    network_name = "xlstm_unet_enc"


class nnUNetTrainerLKMUNet(MambaTrainer):
    """LKM-UNet (arXiv:2403.07332) by nnU-Net's recipe, as its authors train it."""

    network_name = "lkm_unet"


class nnUNetTrainerVMUNet(MambaTrainer):
    """VM-UNet (arXiv:2402.02491) by nnU-Net's recipe; ...Paper has the paper's. 2D only, no deep
    supervision."""

    network_name = "vm_unet"


class nnUNetTrainerMambaUNet(MambaTrainer):
    """Mamba-UNet (arXiv:2402.05079) by nnU-Net's recipe; ...Paper has the paper's. 2D only, no deep
    supervision."""

    network_name = "mamba_unet"


class nnUNetTrainerSwinUMamba(MambaTrainer):
    """Swin-UMamba (arXiv:2402.03302) by nnU-Net's recipe; ...Paper has the paper's. 2D only."""

    network_name = "swin_umamba"


class nnUNetTrainerSwinUMambaD(MambaTrainer):
    """Swin-UMamba† (arXiv:2402.03302), the one with a Mamba decoder, by nnU-Net's recipe; ...Paper has the
    paper's. 2D only."""

    network_name = "swin_umamba_d"


class nnUNetTrainerSegMamba(MambaTrainer):
    """SegMamba (arXiv:2401.13560) by nnU-Net's recipe. 3D only, no deep supervision."""

    network_name = "segmamba"


class nnUNetTrainerLightMUNet(MambaTrainer):
    """LightM-UNet (arXiv:2403.05246) by nnU-Net's recipe; ...Paper has the paper's. No deep supervision."""

    network_name = "lightm_unet"


class nnUNetTrainerSegMambaV2(MambaTrainer):
    """SegMamba-V2 (doi:10.1109/TMI.2025.3589797) by nnU-Net's recipe; ...Paper has the code's. 3D only, no
    deep supervision."""

    network_name = "segmamba_v2"


class nnUNetTrainerNnMamba(MambaTrainer):
    """nnMamba (arXiv:2402.03526) by nnU-Net's recipe. 3D only, no deep supervision."""

    network_name = "nnmamba"


PLANNED: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerMMUNet,
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerMambaUni,
    nnUNetTrainerMambaBi,
    nnUNetTrainerMambaMulti,
    nnUNetTrainerUMamba2,
    nnUNetTrainerXLSTMUNetBot,
    nnUNetTrainerXLSTMUNetEnc,
    nnUNetTrainerLKMUNet,
)
FIXED: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerVMUNet,
    nnUNetTrainerMambaUNet,
    nnUNetTrainerSwinUMamba,
    nnUNetTrainerSwinUMambaD,
    nnUNetTrainerSegMamba,
    nnUNetTrainerLightMUNet,
    nnUNetTrainerSegMambaV2,
    nnUNetTrainerNnMamba,
)
