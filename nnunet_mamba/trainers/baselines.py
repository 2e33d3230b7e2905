"""Trainers of the networks that papers of this family compare with: nnU-Net's own, and MONAI's.

Recipes of MONAI's are those of U-Mamba's repository [1] and, for MedNeXt, its authors'. Differences from [1]:
patches are padded with zeros in the network instead of enlarged in the plans, and CUDA computes under float16
autocast, which [1] turns off for these networks. To add one: a row in `networks.baselines.BASELINES`, a
recipe if none fits, a class below.

[1] Ma et al., U-Mamba, arXiv:2401.04722.
"""

from typing import Any, ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_mamba.networks import baselines
from nnunet_mamba.networks.finite import guard_output
from nnunet_mamba.trainers import recipes
from nnunet_mamba.trainers.base import GuardedTrainer
from nnunet_mamba.trainers.environment import check_no_checkpoint_stages
from nnunet_mamba.trainers.recipe_trainer import RecipeTrainer
from nnunet_mamba.trainers.variants import make_variant


class nnUNetTrainerControl(GuardedTrainer):
    """Control of a study: nnU-Net's own network and recipe, as in the plans, ResEnc plans included, with
    the guards, seeds and resuming of all trainers here."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        build = nnUNetTrainer.build_network_architecture
        sizes = (num_input_channels, num_output_channels, enable_deep_supervision)
        return guard_output(build(plans_manager, configuration_manager, *sizes))

    def initialize(self) -> None:
        check_no_checkpoint_stages("nnU-Net's own network")
        super().initialize()


class BaselineTrainer(RecipeTrainer):
    """Trainer of MONAI's network `network_name`, which takes only the patch from the plans."""

    network_name: ClassVar[str]

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = baselines.create_baseline(
            cls.network_name,
            input_channels=num_input_channels,
            num_classes=num_output_channels,
            patch_size=configuration_manager.patch_size,
            deep_supervision=enable_deep_supervision,
        )
        return guard_output(network)

    def initialize(self) -> None:
        check_no_checkpoint_stages(f"{self.network_name}, of MONAI,")
        super().initialize()

    @classmethod
    def own_output_strides(cls) -> tuple[int, ...]:
        return baselines.BASELINES[cls.network_name].output_strides


class nnUNetTrainerSegResNet(BaselineTrainer):
    """SegResNet (arXiv:1810.11654): Adam from 1e-4, weight decay 1e-5, eps 1e-5, poly decay."""

    network_name = "seg_res_net"
    recipe = recipes.SEG_RES_NET


class nnUNetTrainerUNETR(BaselineTrainer):
    """UNETR (arXiv:2103.10504): AdamW from 1e-4, weight decay 0.01, eps 1e-5, linear decay."""

    network_name = "unetr"
    recipe = recipes.UNETR


class nnUNetTrainerSwinUNETR(BaselineTrainer):
    """SwinUNETR (arXiv:2201.01266): AdamW from 8e-4, weight decay 0.01, eps 1e-5, a cosine to 1e-6."""

    network_name = "swin_unetr"
    recipe = recipes.SWIN_UNETR


class nnUNetTrainerSwinUNETRv2(nnUNetTrainerSwinUNETR):
    """SwinUNETR-V2 (MICCAI 2023), a residual convolution before each stage, by the recipe of SwinUNETR."""

    network_name = "swin_unetr_v2"


class nnUNetTrainerMedNeXtS(BaselineTrainer):
    """MedNeXt, kernel 3 (arXiv:2303.09975; S, B, M and L are its sizes): AdamW from 1e-3, eps 1e-4, nnU-Net's
    poly decay and weight decay of 3e-5, five supervised scales. Needs MONAI 1.5."""

    network_name = "mednext_s"
    recipe = recipes.MEDNEXT


BASELINES: tuple[type[BaselineTrainer], ...] = (
    nnUNetTrainerSegResNet,
    make_variant(nnUNetTrainerSegResNet, "_2xFeat", network_name="seg_res_net_2x_feat"),
    make_variant(nnUNetTrainerSegResNet, "_2xFeat_2xDepth", network_name="seg_res_net_2x_feat_2x_depth"),
    make_variant(nnUNetTrainerSegResNet, "_2xFeat_4xDepth", network_name="seg_res_net_2x_feat_4x_depth"),
    nnUNetTrainerUNETR,
    nnUNetTrainerSwinUNETR,
    nnUNetTrainerSwinUNETRv2,
    nnUNetTrainerMedNeXtS,
    *(
        type(
            f"nnUNetTrainerMedNeXt{size}",
            (nnUNetTrainerMedNeXtS,),
            {"network_name": f"mednext_{size.lower()}"},
        )
        for size in "BML"
    ),
)
