"""Trainers by the recipe of their network's paper, where that is not nnU-Net's.

What differs from the papers in all of them: nnU-Net samples, augments and clips gradients (at norm 12), an
epoch is 250 iterations rather than a pass through the data, and CUDA computes under float16 autocast. The
losses of VM-UNet and Mamba-UNet take plain labels, no regions and no ignore label.
"""

from nnunet_mamba.trainers import family, recipes
from nnunet_mamba.trainers.base import MambaTrainer


class nnUNetTrainerMambaUniPaper(family.nnUNetTrainerMambaUni):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as the paper says [1]. The code
    of today has no linear decay; its schedule is ...PaperCosine.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING


class nnUNetTrainerMambaUniPaperCosine(family.nnUNetTrainerMambaUni):
    """As the code of today [1]: RAdam, a cosine between 3e-4 and 5e-6 that turns every 100 epochs, 1000
    epochs. Its last epoch is at 3e-4, the largest rate of all; ...Paper ends at the smallest.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING_COSINE_1000


class nnUNetTrainerMambaBiPaper(family.nnUNetTrainerMambaBi):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as the paper says [1].

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING


class nnUNetTrainerMambaBiPaperCosine(family.nnUNetTrainerMambaBi):
    """As the code of today [1]: RAdam, a cosine between 3e-4 and 5e-6 that turns every 100 epochs, 300 epochs
    (ends at 5e-6).

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING_COSINE


class nnUNetTrainerMambaMultiPaper(family.nnUNetTrainerMambaMulti):
    """RAdam from 3e-4 (weight decay 3e-5, L2), linear decay over 300 epochs, as the paper says [1].

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING


class nnUNetTrainerMambaMultiPaperOneCycle(family.nnUNetTrainerMambaMulti):
    """As the code of today [1]: RAdam, one cycle over 300 epochs, from 1.2e-5 up to 3e-4 at epoch 29 and down
    to 1e-13, while beta1 goes from 0.95 to 0.85 and back.

    [1] Lumetti et al., Taming Mambas, arXiv:2410.15496.
    """

    recipe = recipes.TAMING_ONE_CYCLE


class nnUNetTrainerVMUNetPaper(family.nnUNetTrainerVMUNet):
    """AdamW from 1e-3 (weight decay 1e-2), a cosine down to 1e-5 that turns every 50 epochs, 300 epochs,
    batches of 32, cross-entropy and Dice with squared denominators [1].

    The cosine turns back up, so the last epoch is at 9.99e-4, all but the largest rate;
    ...PaperFullCosine comes down once. For its Synapse runs the authors' code turns every 100 epochs.

    [1] Ruan et al., VM-UNet, arXiv:2402.02491.
    """

    recipe = recipes.VM_UNET


class nnUNetTrainerVMUNetPaperFullCosine(family.nnUNetTrainerVMUNet):
    """...Paper with the cosine stretched over the whole run: it ends at 1e-5. Our correction of [1].

    [1] Ruan et al., VM-UNet, arXiv:2402.02491.
    """

    recipe = recipes.VM_UNET_FULL_COSINE


class nnUNetTrainerMambaUNetPaper(family.nnUNetTrainerMambaUNet):
    """SGD from 0.01 (momentum 0.9, no Nesterov, weight decay 1e-4), poly decay at every iteration, 10,000
    iterations (40 epochs), batches of 24, half of cross-entropy and Dice with squared denominators [1].

    [1] Wang et al., Mamba-UNet, arXiv:2402.05079.
    """

    recipe = recipes.MAMBA_UNET


class nnUNetTrainerSwinUMambaPaper(family.nnUNetTrainerSwinUMamba):
    """AdamW from 1e-4 (weight decay 5e-2, eps 1e-5), a cosine over all epochs to 1e-6; the encoder but for
    stem and patch embedding is held still for the first 10 epochs [1], which makes sense with pretrained
    weights.

    The authors plan 1000 epochs and test after 100 to 350. They hold the encoder with requires_grad=False and
    look for unused parameters; here its gradients are dropped, which DDP needs no option for.

    [1] Liu et al., Swin-UMamba, arXiv:2402.03302.
    """

    recipe = recipes.SWIN_UMAMBA


class nnUNetTrainerSwinUMambaDPaper(family.nnUNetTrainerSwinUMambaD):
    """Swin-UMamba† by the recipe of nnUNetTrainerSwinUMambaPaper [1].

    [1] Liu et al., Swin-UMamba, arXiv:2402.03302.
    """

    recipe = recipes.SWIN_UMAMBA


PAPERS: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerMambaUniPaper,
    nnUNetTrainerMambaUniPaperCosine,
    nnUNetTrainerMambaBiPaper,
    nnUNetTrainerMambaBiPaperCosine,
    nnUNetTrainerMambaMultiPaper,
    nnUNetTrainerMambaMultiPaperOneCycle,
    nnUNetTrainerVMUNetPaper,
    nnUNetTrainerVMUNetPaperFullCosine,
    nnUNetTrainerMambaUNetPaper,
    nnUNetTrainerSwinUMambaPaper,
    nnUNetTrainerSwinUMambaDPaper,
)
