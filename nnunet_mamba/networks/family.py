"""Table of the networks, and the function that builds them.

A new network is a row here, and one in `nnunet.catalogue`, which has its title and paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.networks.config import FixedConfig, MetaConfig, NetworkConfig
from nnunet_mamba.networks.default_sizes import PATCH, default_sizes
from nnunet_mamba.networks.geometry import PerStage, Sizes
from nnunet_mamba.networks.light_unet import LightUNet, LightUNetConfig
from nnunet_mamba.networks.meta_unet import MetaUNet
from nnunet_mamba.networks.mixer_config import Mixer
from nnunet_mamba.networks.nn_mamba_unet import NnMamba, NnMambaConfig
from nnunet_mamba.networks.seg_mamba import SegMamba, SegMambaConfig
from nnunet_mamba.networks.seg_mamba2 import SegMamba2, SegMamba2Config
from nnunet_mamba.networks.swin_umambas import SwinUMamba, SwinUMambaConfig, SwinUMambaD, SwinUMambaDConfig
from nnunet_mamba.networks.unet import UNet
from nnunet_mamba.networks.vm_unets import MambaUNet, MambaUNetConfig, VMUNet, VMUNetConfig
from nnunet_mamba.ops.precision import set_mixer_precision
from nnunet_mamba.scan_order import scan_order

NO_SSM = "_nossm"  # ending of the twins' names
_UMAMBA_BOT = MetaConfig(
    stem="residual",
    encoder=("cnn",),
    bottleneck="hybrid_outside",
    decoder=("cnn",),
    skip="conv",
    plan_counts="blocks",
    mixer=Mixer(order="uni"),
    mixer_per="stage",
    upsample="nearest",
    quirks=frozenset({"single_deep_blocks", "no_top_skip_2d"}),
)
_XLSTM_UNET_BOT = replace(_UMAMBA_BOT, mixer=Mixer("mlstm", mixer_output="residual"))
_MAMBA_UNI = MetaConfig(
    stem="conv",
    encoder=("hybrid_outside",),
    bottleneck="hybrid_outside",
    decoder=("cnn",),
    plan_counts="blocks",
    mixer=Mixer("mamba_trans", order="uni", d_state=256),
    mixer_per="stage",
    init="zero_residual",
)
_SS2D = Mixer("vss", order="HW,WH,-HW,-WH", d_conv=3)
FAMILY: dict[str, NetworkConfig] = {
    # nnU-Net's own PlainConvUNet: the control
    "nnunet": MetaConfig(),
    # Xie et al., MM-UNet, arXiv:2503.17540, as read in docs/mm-unet.md
    "mm_unet": MetaConfig(
        encoder=("plain", "hybrid_inside"),
        bottleneck="hybrid_inside",
        decoder=("cnn",),
        downsample="layer",
        mixer=Mixer(order="bi", mixer_output="residual"),
        n_supervised=3,
    ),
    # Ma et al., U-Mamba, arXiv:2401.04722, as the code has been since March 2024
    "umamba_bot": _UMAMBA_BOT,
    "umamba_enc": replace(
        _UMAMBA_BOT,
        encoder=("hybrid_outside",),
        quirks=_UMAMBA_BOT.quirks | {"every_second_stage_2d", "channel_tokens"},
    ),
    # Tan et al., U-Mamba2, arXiv:2509.12069: nnU-Net's residual encoder U-Net, and one layer of Mamba-2
    "umamba2": MetaConfig(
        stem="conv",
        encoder=("cnn",),
        bottleneck="hybrid_outside",
        mixer=Mixer("mamba2"),
        mixer_per="stage",
        init="zero_residual",
    ),
    # Chen et al., xLSTM-UNet, arXiv:2407.01530, code of July 2024
    "xlstm_unet_bot": _XLSTM_UNET_BOT,
    "xlstm_unet_enc": replace(
        _XLSTM_UNET_BOT,
        encoder=("hybrid_outside",),
        quirks=_UMAMBA_BOT.quirks | {"every_second_stage_2d", "channel_tokens", "conv_for_top_mixers"},
    ),
    # Lumetti et al., Taming Mambas, arXiv:2410.15496, code of September 2025
    "mamba_uni": _MAMBA_UNI,
    "mamba_bi": _MAMBA_UNI.with_overrides(order="bi"),
    "mamba_multi": _MAMBA_UNI.with_overrides(order="DHW,-DHW,DWH,-DWH,HDW,-HDW,WDH,-WDH", d_state=64),
    # Wang et al., LKM-UNet, arXiv:2403.07332, code of June 2024
    "lkm_unet": replace(_MAMBA_UNI, mixer=Mixer("large_kernel", order="bi")),
    # Ruan and Xiang, VM-UNet, arXiv:2402.02491; Wang et al., Mamba-UNet, arXiv:2402.05079
    "vm_unet": VMUNetConfig(_SS2D),
    "mamba_unet": MambaUNetConfig(_SS2D),
    # Liu et al., Swin-UMamba, arXiv:2402.03302, and its variant with a dagger
    "swin_umamba": SwinUMambaConfig(_SS2D),
    "swin_umamba_d": SwinUMambaDConfig(_SS2D),
    # Xing et al., SegMamba, arXiv:2401.13560, code of June 2025
    "segmamba": SegMambaConfig(mixer=Mixer(order="DHW,-DHW,interleave{n_slices}")),
    # Liao et al., LightM-UNet, arXiv:2403.05246, code of 29 March 2024
    "lightm_unet": LightUNetConfig(mixer=Mixer(order="uni")),
    # Xing et al., SegMamba-V2, IEEE TMI 2025, code since May 2025
    "segmamba_v2": SegMamba2Config(mixer=Mixer(order="DHW,HDW,WHD", shared=True)),
    # Gong et al., nnMamba, arXiv:2402.03526, the file nnMamba.py of March 2024
    "nnmamba": NnMambaConfig(mixer=Mixer(order="bi", shared=True)),
}
CLASSES: dict[type[NetworkConfig], Callable[..., UNet]] = {
    MetaConfig: MetaUNet,
    VMUNetConfig: VMUNet,
    MambaUNetConfig: MambaUNet,
    SwinUMambaConfig: SwinUMamba,
    SwinUMambaDConfig: SwinUMambaD,
    SegMambaConfig: SegMamba,
    LightUNetConfig: LightUNet,
    SegMamba2Config: SegMamba2,
    NnMambaConfig: NnMamba,
}


class NetworkSpec(NamedTuple):
    """Name, config and sizes that a network is built of; each network has its own as `spec`."""

    name: str
    config: NetworkConfig
    sizes: Sizes

    def build(self, deep_supervision: bool) -> UNet:
        network = CLASSES[type(self.config)](self.config, self.sizes, deep_supervision)
        network.spec = self
        return network


def list_networks() -> list[str]:
    """List the names that `create_network` knows: the family, and the twins without SSM."""
    return [*FAMILY, *(f"{name}{NO_SSM}" for name, config in FAMILY.items() if config.mixer is not None)]


def get_config(name: str) -> NetworkConfig:
    """Return the config of a network, or of its twin without SSM. ValueError for unknown names."""
    if name.startswith("nnUNetTrainer"):
        raise ValueError(f"{name!r} is a trainer; `nnunet-mamba trainers {name}` tells its network.")
    if name not in list_networks():
        raise ValueError(format_unknown_name("network", name, list_networks(), "nnunet-mamba networks"))
    base = name.removesuffix(NO_SSM)
    return FAMILY[base] if base == name else FAMILY[base].without_ssm()


def supported_ndims(name: str) -> tuple[int, ...]:
    """Return the numbers of axes (2, 3 or both) that a network takes. ValueError for unknown names."""
    config = get_config(name)
    if isinstance(config, FixedConfig):
        return config.ndims
    return tuple(ndim for ndim in (2, 3) if _has_directions(config, ndim))


def _has_directions(config: NetworkConfig, ndim: int) -> bool:
    """Return True if the scan order of a network exists on a grid of `ndim` axes, or if it has none."""
    try:
        return config.mixer is None or bool(scan_order(config.mixer.order, ndim))
    except ValueError:
        return False


def create_network(
    name: str,
    *,
    input_channels: int,
    num_classes: int,
    features_per_stage: Sequence[int] | None = None,
    strides: Sequence[PerStage] | None = None,
    kernel_sizes: Sequence[PerStage] | None = None,
    n_conv_per_stage: PerStage = 2,
    n_conv_per_stage_decoder: PerStage = 2,
    n_blocks_per_stage: PerStage | None = None,
    patch_size: Sequence[int] | None = None,
    deep_supervision: bool = False,
    checkpoint_stages: int | str = 0,
    mixer_precision: str | None = None,
    **overrides: Any,
) -> UNet:
    """Build a network by name, sized by nnU-Net's plans, else by its paper or nnU-Net's default planner.

    Args:
        input_channels, num_classes: channels of the images (B, input_channels, *grid) and of the logits
            (B, num_classes, *grid), the background among them.
        features_per_stage, strides, kernel_sizes: one entry per stage, full resolution first; a stride or
            kernel is a list of 2 or 3 numbers (one number: the same for all axes). Networks of fixed topology
            (`FixedConfig`) need none of the three; their default features are those of the paper. For other
            networks give all three or none: the default is nnU-Net's default plan for `patch_size` isotropic
            voxels, 128 x 128 x 128 if that is not given either.
        n_conv_per_stage, n_conv_per_stage_decoder: a number, or one per stage (decoder: deepest first).
        n_blocks_per_stage: residual blocks per stage, from nnU-Net's ResEnc plans.
        patch_size: voxels per axis of the training patches. A patch that is too small for the strides is
            refused, one that they do not divide is padded. Inputs of other sizes work too, except where
            weights depend on the patch (`umamba_enc`, `xlstm_unet_enc`). Without it `lightm_unet`, 2D or 3D,
            is 3D.
        deep_supervision: return a list of logits, the largest first; may be changed in `network.decoder`.
        checkpoint_stages: number of stages of encoder and decoder, from the largest grid down, or "all",
            whose activations are recomputed in backward instead of kept: less memory, a slower step.
        mixer_precision: the part of the mixers that is computed in float32 under autocast: all with
            "float32", the recurrence alone with "mixed". Default: "float32", and "mixed" for VSS blocks, as
            in their authors' code, and for the convolutions of mixer="conv".
        overrides: fields of the network's config (such as `MetaConfig`) and of `Mixer`: order="multi",
            d_state=8.

    Raises ValueError for unknown names and overrides, and for sizes that do not go together.
    """
    config = get_config(name)
    if not isinstance(config, FixedConfig) and features_per_stage is strides is kernel_sizes is None:
        default = default_sizes(PATCH if patch_size is None else patch_size)
        features_per_stage, strides = default["features_per_stage"], default["strides"]
        kernel_sizes, patch_size = default["kernel_sizes"], default["patch_size"]
    sizes = Sizes(
        input_channels,
        num_classes,
        features_per_stage,
        strides,
        kernel_sizes,
        n_conv_per_stage,
        n_conv_per_stage_decoder,
        n_blocks_per_stage,
        patch_size,
    )
    network = NetworkSpec(name, config.with_overrides(**overrides), sizes).build(deep_supervision)
    network.set_activation_checkpointing(checkpoint_stages)
    set_mixer_precision(network, mixer_precision)
    return network
