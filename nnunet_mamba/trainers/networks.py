"""Trainers of the networks of the family, of MM-UNet's ablations, and by the recipes of the papers.

PLANNED     networks that take their topology from the plans, by nnU-Net's recipe or the nearest to it
FIXED       networks that bring their own topology, by nnU-Net's recipe
ABLATIONS   MM-UNet, by its own recipe, with another scan order or another placement of the mixer
MIXERS      some of PLANNED with other mixers in the same places
PAPERS      networks by the recipe of their paper, where that is not nnU-Net's

In the recipes of the papers, too, nnU-Net samples, augments and clips gradients (at norm 12), an epoch is 250
iterations rather than a pass through the data, and CUDA computes under float16 autocast unless the recipe
says float32. The losses of VM-UNet and Mamba-UNet take plain labels, no regions and no ignore label.
"""

from collections.abc import Iterator

from nnunet_mamba.networks.family import get_config
from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.mamba import MambaTrainer
from nnunet_mamba.trainers.variants import make_variant


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


SCAN_ORDERS = tuple(f"B{row}" for row in range(1, 10))  # rows of MM-UNet's table
ABLATIONS: tuple[type[MambaTrainer], ...] = (
    *(make_variant(nnUNetTrainerMMUNet, f"_{order}", overrides={"order": order}) for order in SCAN_ORDERS),
    nnUNetTrainerMMUNet_SSMEncBot,
    nnUNetTrainerMMUNet_SSMAll,
    nnUNetTrainerMMUNet_SSMDecBot,
    nnUNetTrainerMMUNet_HybridOutside,
)


# Other global mixers in the places of a network's own, with everything else equal

MIXER_NAMES: dict[str, str] = {
    "Mamba": "mamba",
    "Mamba2": "mamba2",
    "mLSTM": "mlstm",
    "Attention": "attention",
}
SLOTS: tuple[type[MambaTrainer], ...] = (
    nnUNetTrainerMMUNet,
    nnUNetTrainerUMambaBot,
    nnUNetTrainerUMambaEnc,
    nnUNetTrainerUMamba2,
)


def _with_other_mixers(trainer: type[MambaTrainer]) -> Iterator[type[MambaTrainer]]:
    """Yield the trainer with each kind of mixer that its network does not have itself."""
    own = get_config(trainer.network_name).mixer
    for name, kind in MIXER_NAMES.items():
        if own is None or own.kind != kind:
            yield make_variant(trainer, f"_{name}", overrides={"mixer": kind})


MIXERS = tuple(variant for trainer in SLOTS for variant in _with_other_mixers(trainer))


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
