"""Trainers by the recipes of the papers, where these are not nnU-Net's.

Here, too, nnU-Net samples, augments and clips gradients (at norm 12), an epoch is 250 iterations rather than
a pass through the data, and CUDA computes under float16 autocast unless a recipe says otherwise. The losses
of VM-UNet, Mamba-UNet and SegMamba-V2 take plain labels, no regions and no ignore label.
"""

from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.mamba import MambaTrainer
from nnunet_mamba.trainers.networks import (
    nnUNetTrainerLightMUNet,
    nnUNetTrainerMambaBi,
    nnUNetTrainerMambaMulti,
    nnUNetTrainerMambaUNet,
    nnUNetTrainerMambaUni,
    nnUNetTrainerNnMamba,
    nnUNetTrainerSegMambaV2,
    nnUNetTrainerSwinUMamba,
    nnUNetTrainerSwinUMambaD,
    nnUNetTrainerVMUNet,
    nnUNetTrainerXLSTMUNetBot,
    nnUNetTrainerXLSTMUNetEnc,
)


class nnUNetTrainerMambaUniPaper(nnUNetTrainerMambaUni):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as in the paper
    (arXiv:2410.15496). The authors' present code has no linear decay; its schedule is ...PaperCosine."""

    recipe = recipes.TAMING


class nnUNetTrainerMambaUniPaperCosine(nnUNetTrainerMambaUni):
    """RAdam, a cosine between 3e-4 and 5e-6 that turns every 100 epochs, 1000 epochs, as in the authors'
    present code (arXiv:2410.15496). Its last epoch is at 3e-4, the largest rate; ...Paper ends at the
    smallest."""

    recipe = recipes.TAMING_COSINE_1000


class nnUNetTrainerMambaBiPaper(nnUNetTrainerMambaBi):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as in the paper
    (arXiv:2410.15496)."""

    recipe = recipes.TAMING


class nnUNetTrainerMambaBiPaperCosine(nnUNetTrainerMambaBi):
    """RAdam, a cosine between 3e-4 and 5e-6 that turns every 100 epochs, 300 epochs (ends at 5e-6), as in the
    authors' present code (arXiv:2410.15496)."""

    recipe = recipes.TAMING_COSINE


class nnUNetTrainerMambaMultiPaper(nnUNetTrainerMambaMulti):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as in the paper
    (arXiv:2410.15496)."""

    recipe = recipes.TAMING


class nnUNetTrainerMambaMultiPaperOneCycle(nnUNetTrainerMambaMulti):
    """RAdam, one cycle over 300 epochs, from 1.2e-5 up to 3e-4 at epoch 29 and down to 1e-13, while beta1
    goes from 0.95 to 0.85 and back, as in the authors' present code (arXiv:2410.15496)."""

    recipe = recipes.TAMING_ONE_CYCLE


class nnUNetTrainerXLSTMUNetBotPaper(nnUNetTrainerXLSTMUNetBot):
    """nnU-Net's recipe from a learning rate of 5e-3, as in the authors' scripts (arXiv:2407.01530).

    They train for 4,000 epochs, four times nnU-Net's length: ...Paper_4000epochs.
    """

    recipe = recipes.XLSTM_UNET


class nnUNetTrainerXLSTMUNetEncPaper(nnUNetTrainerXLSTMUNetEnc):
    """nnU-Net's recipe from a learning rate of 5e-3, as in the authors' scripts (arXiv:2407.01530).

    They train for 4,000 epochs, four times nnU-Net's length: ...Paper_4000epochs.
    """

    recipe = recipes.XLSTM_UNET


class nnUNetTrainerVMUNetPaper(nnUNetTrainerVMUNet):
    """AdamW from 1e-3 (weight decay 1e-2), a cosine down to 1e-5 that turns every 50 epochs, 300 epochs,
    batches of 32, cross-entropy and Dice with squared denominators (arXiv:2402.02491).

    The cosine turns back up, so the last epoch is at 9.99e-4, almost the largest rate; ...PaperFullCosine
    comes down once. For its Synapse runs the authors' code turns every 100 epochs.
    """

    recipe = recipes.VM_UNET


class nnUNetTrainerVMUNetPaperFullCosine(nnUNetTrainerVMUNet):
    """Recipe of ...Paper with the cosine stretched over the whole run, which ends at 1e-5: our correction of
    the paper (arXiv:2402.02491)."""

    recipe = recipes.VM_UNET_FULL_COSINE


class nnUNetTrainerMambaUNetPaper(nnUNetTrainerMambaUNet):
    """SGD from 0.01 (momentum 0.9, no Nesterov, weight decay 1e-4), poly decay at every iteration, 10,000
    iterations (40 epochs), batches of 24, half of cross-entropy and Dice with squared denominators
    (arXiv:2402.05079)."""

    recipe = recipes.MAMBA_UNET


class nnUNetTrainerSwinUMambaPaper(nnUNetTrainerSwinUMamba):
    """AdamW from 1e-4 (weight decay 5e-2, eps 1e-5), a cosine over all epochs to 1e-6; the encoder but for
    stem and patch embedding is frozen in the first 10 epochs (arXiv:2402.03302), for pretrained weights.

    The authors plan 1000 epochs and test after 100 to 350. They freeze the encoder with requires_grad=False
    and have DDP find unused parameters; here its gradients are dropped, for which DDP needs no option.
    """

    recipe = recipes.SWIN_UMAMBA


class nnUNetTrainerSwinUMambaDPaper(nnUNetTrainerSwinUMambaD):
    """Swin-UMamba† (arXiv:2402.03302) by the recipe of nnUNetTrainerSwinUMambaPaper."""

    recipe = recipes.SWIN_UMAMBA


class nnUNetTrainerLightMUNetPaper(nnUNetTrainerLightMUNet):
    """Adam from 1e-4 (weight decay 1e-5, L2, eps 1e-5), poly decay over 100 epochs, in float32, as in the
    authors' code (arXiv:2403.05246)."""

    recipe = recipes.LIGHTM_UNET


class nnUNetTrainerSegMambaV2Paper(nnUNetTrainerSegMambaV2):
    """nnU-Net's SGD from 1e-2 with poly decay at every iteration and cross-entropy alone, as in the authors'
    code (doi:10.1109/TMI.2025.3589797), for patches of 128 voxels along each axis and batches of 8."""

    recipe = recipes.SEGMAMBA_V2


class nnUNetTrainerNnMambaPaper(nnUNetTrainerNnMamba):
    """nnU-Net's SGD from 1e-4, in float32, as its authors' trainers (arXiv:2402.03526), whose network has one
    walk and four supervised scales: this one was never trained by a public trainer."""

    recipe = recipes.NNMAMBA


PAPERS: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerMambaUniPaper,
    nnUNetTrainerMambaUniPaperCosine,
    nnUNetTrainerMambaBiPaper,
    nnUNetTrainerMambaBiPaperCosine,
    nnUNetTrainerMambaMultiPaper,
    nnUNetTrainerMambaMultiPaperOneCycle,
    nnUNetTrainerXLSTMUNetBotPaper,
    nnUNetTrainerXLSTMUNetEncPaper,
    nnUNetTrainerVMUNetPaper,
    nnUNetTrainerVMUNetPaperFullCosine,
    nnUNetTrainerMambaUNetPaper,
    nnUNetTrainerSwinUMambaPaper,
    nnUNetTrainerSwinUMambaDPaper,
    nnUNetTrainerLightMUNetPaper,
    nnUNetTrainerSegMambaV2Paper,
    nnUNetTrainerNnMambaPaper,
)
