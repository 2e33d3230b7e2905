"""A trainer for every network of the family, by the recipe that is nnU-Net's or next to it.

`PLANNED` networks take their topology from the plans, those of `FIXED` bring their own.
"""

from nnunet_mamba.trainers.base import MambaTrainer
from nnunet_mamba.trainers.recipes import MM_UNET


class nnUNetTrainerMMUNet(MambaTrainer):
    """MM-UNet by its paper's recipe [1, section 4]: nnU-Net's SGD from 1e-3, the three largest scales
    supervised with 4/7, 2/7, 1/7.

    [1] Xie et al., MM-UNet, arXiv:2503.17540.
    """

    network_name = "mm_unet"
    recipe = MM_UNET
    n_supervised_scales = 3


class nnUNetTrainerUMambaBot(MambaTrainer):
    """U-Mamba Bot [1] by nnU-Net's recipe, as its authors train it.

    [1] Ma et al., U-Mamba, arXiv:2401.04722.
    """

    network_name = "umamba_bot"


class nnUNetTrainerUMambaEnc(MambaTrainer):
    """U-Mamba Enc [1] by nnU-Net's recipe, as its authors train it.

    Their second trainer, without mixed precision, has no counterpart: here mixers compute in float32 anyway,
    in training and in prediction.

    [1] Ma et al., U-Mamba, arXiv:2401.04722.
    """

    network_name = "umamba_enc"


class nnUNetTrainerMambaUni(MambaTrainer):
    """Taming Mambas' network with one scan [1] by nnU-Net's recipe; ...Paper has the paper's.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    network_name = "mamba_uni"


class nnUNetTrainerMambaBi(MambaTrainer):
    """Taming Mambas' network with two scans [1] by nnU-Net's recipe; ...Paper has the paper's.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    network_name = "mamba_bi"


class nnUNetTrainerMambaMulti(MambaTrainer):
    """Taming Mambas' network with four scans and their reverses [1] by nnU-Net's recipe; ...Paper has the
    paper's. 3D only.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    network_name = "mamba_multi"


class nnUNetTrainerVMUNet(MambaTrainer):
    """VM-UNet [1] by nnU-Net's recipe; ...Paper has the paper's. 2D only, no deep supervision.

    [1] Ruan et al., VM-UNet, arXiv:2402.02491.
    """

    network_name = "vm_unet"


class nnUNetTrainerMambaUNet(MambaTrainer):
    """Mamba-UNet [1] by nnU-Net's recipe; ...Paper has the paper's. 2D only, no deep supervision.

    [1] Wang et al., Mamba-UNet, arXiv:2402.05079.
    """

    network_name = "mamba_unet"


class nnUNetTrainerSwinUMamba(MambaTrainer):
    """Swin-UMamba [1] by nnU-Net's recipe; ...Paper has the paper's. 2D only.

    [1] Liu et al., Swin-UMamba, arXiv:2402.03302.
    """

    network_name = "swin_umamba"


class nnUNetTrainerSwinUMambaD(MambaTrainer):
    """Swin-UMamba† [1], the one with a Mamba decoder, by nnU-Net's recipe; ...Paper has the paper's. 2D only.

    [1] Liu et al., Swin-UMamba, arXiv:2402.03302.
    """

    network_name = "swin_umamba_d"


class nnUNetTrainerSegMamba(MambaTrainer):
    """SegMamba [1] by nnU-Net's recipe. 3D only, no deep supervision.

    [1] Xing et al., SegMamba, arXiv:2401.13560.
    """

    network_name = "segmamba"


PLANNED: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerMMUNet,
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerMambaUni,
    nnUNetTrainerMambaBi,
    nnUNetTrainerMambaMulti,
)
FIXED: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerVMUNet,
    nnUNetTrainerMambaUNet,
    nnUNetTrainerSwinUMamba,
    nnUNetTrainerSwinUMambaD,
    nnUNetTrainerSegMamba,
)
