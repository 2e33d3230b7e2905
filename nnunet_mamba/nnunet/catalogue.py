"""Networks and trainers in words: titles, papers, dimensions, recipes, and the names of all trainers.

torch and nnU-Net, seconds to import, are not loaded; `tests/nnunet/test_catalogue.py` holds this table
against what `networks` and `trainers` define.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain

from nnunet_mamba.io.messages import format_unknown_name

PREFIX = "nnUNetTrainer"
NOT_FOUND = "Could not find requested nnunet trainer"  # as nnU-Net's error begins
NO_SSM = "_nossm"  # of networks
TWIN, NO_DECAY, DEMO, SMOKE = "NoSSM", "_NoDecaySSM", "_demo", "_smoke"  # of trainers
CONDITION = "@"  # in a trainer's name, before what else its network was validated under: ...MMUNet@noise10
EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)  # nnU-Net's lengths
CONV = "Conv"  # convolutions with as many parameters: the size-matched twin
# endings of the trainers with other mixers in the places of their own -> words of `create_network`
MIXER_ENDINGS = {kind: kind.lower() for kind in ("Mamba", "Mamba2", "mLSTM", "Attention", CONV)}
# values of a mixer's settings that trainers' names may contain; without mixers they mean nothing
MIXER_WORDS = ("bare", "residual", "norm", "scaled", "uni", "bi", "multi", *MIXER_ENDINGS)
LENGTHS = tuple(f"_{n}epoch{'s' * (n > 1)}" for n in EPOCHS)


@dataclass(frozen=True)
class NetworkInfo:
    """Network by its paper.

    ndims      numbers of spatial dimensions of the images that it takes
    has_ssm    it has a twin: the same network without state space model
    has_state  its mixers have A and D, which weight decay may spare
    twin       the first network of the table that has the same twin ("": this one is the first)
    """

    title: str
    paper: str
    ndims: tuple[int, ...] = (2, 3)
    has_ssm: bool = True
    has_state: bool = True
    twin: str = ""


@dataclass(frozen=True)
class TrainerInfo:
    """Trainer by its network and recipe, in words.

    has_demo   there is a small one for CPUs
    twin       the trainer that has the same twin ("": its twin is its own name with NoSSM)
    own_mixer  the kind of its mixers, if all of MIXER_ENDINGS may take their places ("": only CONV may)
    mixer      the kind that stands in the places of those of `twin` ("": the network's own)
    """

    name: str
    network: str
    recipe: str
    has_demo: bool = False
    twin: str = ""
    own_mixer: str = ""
    mixer: str = ""

    def endings(self) -> dict[str, tuple[str, ...]]:
        """Return the endings of its name, of its twin's name, and of that without weight decay on the SSM."""
        short = (SMOKE, DEMO) if self.has_demo else (SMOKE,)
        endings = {self.name: (*LENGTHS, *short)}
        if NETWORKS[self.network].has_ssm and not self.twin:
            endings[self.name + TWIN] = (*LENGTHS, *short)
        if self.has_no_decay:
            endings[self.name + NO_DECAY] = LENGTHS
        return endings

    @property
    def has_no_decay(self) -> bool:
        """True if it comes without weight decay on the SSM too: with its network's own mixers alone."""
        network = NETWORKS[self.network]
        return network.has_ssm and network.has_state and not self.mixer

    def twin_name(self) -> str:
        """Return the name of the trainer of the same network without state space model, "" without one."""
        return f"{self.twin or self.name}{TWIN}" if NETWORKS[self.network].has_ssm else ""

    def names(self) -> Iterator[str]:
        """Yield the names of this trainer in all lengths and forms."""
        for name, endings in self.endings().items():
            yield from (name, *(name + ending for ending in endings))


MM_UNET = "Xie et al., arXiv:2503.17540"
UMAMBA = "Ma et al., arXiv:2401.04722"
TAMING = "Lumetti et al., arXiv:2410.15496"
XLSTM = "Chen et al., arXiv:2407.01530"
SWIN = "Liu et al., arXiv:2402.03302"
SEG_RES_NET = "Myronenko, arXiv:1810.11654"
MEDNEXT = "Roy et al., arXiv:2303.09975"

FAMILY: dict[str, NetworkInfo] = {
    "nnunet": NetworkInfo("nnU-Net's PlainConvUNet", "Isensee et al., Nature Methods 2021", has_ssm=False),
    "mm_unet": NetworkInfo("MM-UNet", MM_UNET),
    "umamba_bot": NetworkInfo("U-Mamba Bot", UMAMBA),
    "umamba_enc": NetworkInfo("U-Mamba Enc", UMAMBA, twin="umamba_bot"),
    "umamba2": NetworkInfo("U-Mamba2", "Tan et al., arXiv:2509.12069"),
    "xlstm_unet_bot": NetworkInfo("xLSTM-UNet Bot", XLSTM, has_state=False, twin="umamba_bot"),
    "xlstm_unet_enc": NetworkInfo("xLSTM-UNet Enc", XLSTM, has_state=False),
    "mamba_uni": NetworkInfo("Taming Mambas, one scan", TAMING),
    "mamba_bi": NetworkInfo("Taming Mambas, two scans", TAMING, twin="mamba_uni"),
    "mamba_multi": NetworkInfo("Taming Mambas, eight scans", TAMING, ndims=(3,), twin="mamba_uni"),
    "lkm_unet": NetworkInfo("LKM-UNet", "Wang et al., arXiv:2403.07332", twin="mamba_uni"),
    "vm_unet": NetworkInfo("VM-UNet", "Ruan and Xiang, arXiv:2402.02491", ndims=(2,)),
    "mamba_unet": NetworkInfo("Mamba-UNet", "Wang et al., arXiv:2402.05079", ndims=(2,)),
    "swin_umamba": NetworkInfo("Swin-UMamba", SWIN, ndims=(2,)),
    "swin_umamba_d": NetworkInfo("Swin-UMamba† (Mamba decoder)", SWIN, ndims=(2,)),
    "segmamba": NetworkInfo("SegMamba", "Xing et al., arXiv:2401.13560", ndims=(3,)),
    "lightm_unet": NetworkInfo("LightM-UNet", "Liao et al., arXiv:2403.05246"),
    "segmamba_v2": NetworkInfo("SegMamba-V2", "Xing et al., doi:10.1109/TMI.2025.3589797", ndims=(3,)),
    "nnmamba": NetworkInfo("nnMamba", "Gong et al., arXiv:2402.03526", ndims=(3,)),
}
BASELINES: dict[str, NetworkInfo] = {  # of MONAI, for comparison; trained only, not in `create_network`
    "seg_res_net": NetworkInfo("SegResNet", SEG_RES_NET, has_ssm=False),
    "seg_res_net_2x_feat": NetworkInfo("SegResNet, twice the features", SEG_RES_NET, has_ssm=False),
    "seg_res_net_2x_feat_2x_depth": NetworkInfo("SegResNet, and twice the depth", SEG_RES_NET, has_ssm=False),
    "seg_res_net_2x_feat_4x_depth": NetworkInfo("SegResNet, and 4x the depth", SEG_RES_NET, has_ssm=False),
    "unetr": NetworkInfo("UNETR", "Hatamizadeh et al., arXiv:2103.10504", has_ssm=False),
    "swin_unetr": NetworkInfo("SwinUNETR", "Hatamizadeh et al., arXiv:2201.01266", has_ssm=False),
    "swin_unetr_v2": NetworkInfo("SwinUNETR-V2", "He et al., MICCAI 2023", has_ssm=False),
    **{f"mednext_{size.lower()}": NetworkInfo(f"MedNeXt {size}", MEDNEXT, has_ssm=False) for size in "SBML"},
}
NETWORKS = {**FAMILY, **BASELINES}

NNUNET = "nnU-Net's: SGD from 1e-2, poly decay, 1000 epochs"
MM_UNETS = "the paper's: SGD from 1e-3, 3 scales supervised, 1000 epochs"
LOWER_RATE = "the authors': SGD from 5e-3, poly decay, 1000 epochs; theirs are 4000"
RADAM = "the paper's: RAdam from 3e-4, linear decay, 300 epochs"
ADAMW_SWIN = "the paper's: AdamW from 1e-4, cosine, encoder frozen for 10 epochs, 1000 epochs"
ADAM = "U-Mamba's authors': Adam from 1e-4, poly decay, 1000 epochs"
ADAMW_SWIN_UNETR = "U-Mamba's authors': AdamW from 8e-4, cosine, 1000 epochs"


def _planned(name: str, network: str, recipe: str = NNUNET, own_mixer: str = "") -> TrainerInfo:
    return TrainerInfo(PREFIX + name, network, recipe, has_demo=True, own_mixer=own_mixer)


def _own(name: str, network: str, recipe: str = NNUNET) -> TrainerInfo:
    return TrainerInfo(PREFIX + name, network, recipe)


def _ablation(name: str, change: str, *, of_mixer: bool = True) -> TrainerInfo:
    """Return the row of an ablation of MM-UNet; one that changes the mixers alone has MM-UNet's twin."""
    recipe = f"{change}; recipe as nnUNetTrainerMMUNet's"
    twin = f"{PREFIX}MMUNet" if of_mixer else ""
    return TrainerInfo(f"{PREFIX}MMUNet_{name}", "mm_unet", recipe, has_demo=True, twin=twin)


def _with_other_mixers(row: TrainerInfo) -> Iterator[TrainerInfo]:
    """Yield the rows of the trainer with other mixers in the places of its own: each kind, or CONV alone."""
    for kind in MIXER_ENDINGS if row.own_mixer else (CONV,):
        if kind != row.own_mixer:
            recipe = f"{kind} in place of its own mixer; {row.recipe}"
            name = f"{row.name}_{kind}"
            yield replace(row, name=name, recipe=recipe, twin=row.name, own_mixer="", mixer=kind)


_PLANNED = (
    _planned("MMUNet", "mm_unet", MM_UNETS, own_mixer="Mamba"),
    _planned("UMambaBot", "umamba_bot", own_mixer="Mamba"),
    _planned("UMambaEnc", "umamba_enc", own_mixer="Mamba"),
    _planned("MambaUni", "mamba_uni"),
    _planned("MambaBi", "mamba_bi"),
    _planned("MambaMulti", "mamba_multi"),
    _planned("UMamba2", "umamba2", own_mixer="Mamba2"),
    _planned("XLSTMUNetBot", "xlstm_unet_bot"),
    _planned("XLSTMUNetEnc", "xlstm_unet_enc"),
    _planned("LKMUNet", "lkm_unet"),
)
_FIXED = (
    _own("VMUNet", "vm_unet"),
    _own("MambaUNet", "mamba_unet"),
    _own("SwinUMamba", "swin_umamba"),
    _own("SwinUMambaD", "swin_umamba_d"),
    _own("SegMamba", "segmamba"),
    _own("LightMUNet", "lightm_unet"),
    _own("SegMambaV2", "segmamba_v2"),
    _own("NnMamba", "nnmamba"),
)
TRAINERS: tuple[TrainerInfo, ...] = (
    *_PLANNED,
    *_FIXED,
    _own("MambaUniPaper", "mamba_uni", RADAM),
    _own("MambaUniPaperCosine", "mamba_uni", "the code's: RAdam, cosine of 100 epochs, 1000 epochs"),
    _own("MambaBiPaper", "mamba_bi", RADAM),
    _own("MambaBiPaperCosine", "mamba_bi", "the code's: RAdam, cosine of 100 epochs, 300 epochs"),
    _own("MambaMultiPaper", "mamba_multi", RADAM),
    _own("MambaMultiPaperOneCycle", "mamba_multi", "the code's: RAdam, one cycle, 300 epochs"),
    _own("XLSTMUNetBotPaper", "xlstm_unet_bot", LOWER_RATE),
    _own("XLSTMUNetEncPaper", "xlstm_unet_enc", LOWER_RATE),
    _own("VMUNetPaper", "vm_unet", "the paper's: AdamW from 1e-3, cosine of 50 epochs, 300 epochs"),
    _own("VMUNetPaperFullCosine", "vm_unet", "as VMUNetPaper, but one cosine over 300 epochs"),
    _own("MambaUNetPaper", "mamba_unet", "the paper's: SGD from 1e-2, 10,000 iterations of batch 24"),
    _own("SwinUMambaPaper", "swin_umamba", ADAMW_SWIN),
    _own("SwinUMambaDPaper", "swin_umamba_d", ADAMW_SWIN),
    _own("LightMUNetPaper", "lightm_unet", "the paper's: Adam from 1e-4, poly decay, float32, 100 epochs"),
    _own("SegMambaV2Paper", "segmamba_v2", "the code's: SGD from 1e-2, cross-entropy alone, 1000 epochs"),
    _own("NnMambaPaper", "nnmamba", "its authors' for another copy: SGD from 1e-4, float32, 1000 epochs"),
    *(_ablation(f"B{row}", f"scan order B{row} of its table 1") for row in range(1, 10)),
    _ablation("SSMEncBot", "mixers instead of convolutions in encoder and bottleneck", of_mixer=False),
    _ablation("SSMAll", "mixers instead of convolutions everywhere", of_mixer=False),
    _ablation("SSMDecBot", "mixers instead of convolutions in bottleneck and decoder", of_mixer=False),
    _ablation("HybridOutside", "mixers behind the residual blocks"),
    _ablation("DecoderOnly", "mixers in the decoder's residual blocks, and nowhere else"),
    *chain.from_iterable(map(_with_other_mixers, (*_PLANNED, *_FIXED))),
    _own("SegResNet", "seg_res_net", ADAM),
    _own("SegResNet_2xFeat", "seg_res_net_2x_feat", ADAM),
    _own("SegResNet_2xFeat_2xDepth", "seg_res_net_2x_feat_2x_depth", ADAM),
    _own("SegResNet_2xFeat_4xDepth", "seg_res_net_2x_feat_4x_depth", ADAM),
    _own("UNETR", "unetr", "U-Mamba's authors': AdamW from 1e-4, linear decay, 1000 epochs"),
    _own("SwinUNETR", "swin_unetr", ADAMW_SWIN_UNETR),
    _own("SwinUNETRv2", "swin_unetr_v2", ADAMW_SWIN_UNETR),
    *(
        _own(f"MedNeXt{size}", f"mednext_{size.lower()}", "its authors': AdamW from 1e-3, poly, 1000 epochs")
        for size in "SBML"
    ),
    _own("Control", "nnunet"),
)


def list_network_names() -> list[str]:
    """Return the names that `create_network` knows: the family, and the twins without SSM."""
    return [*FAMILY, *(f"{name}{NO_SSM}" for name, row in FAMILY.items() if row.has_ssm)]


def list_trainer_names() -> list[str]:
    """Return the names of all trainers, in every length and form."""
    return [name for trainer in TRAINERS for name in trainer.names()]


@dataclass(frozen=True)
class TrainerName:
    """Parts of a trainer's name: nnUNetTrainerMMUNetNoSSM_norm_100epochs@noise10.

    base         "nnUNetTrainerMMUNet": of TRAINERS, or of others up to the first underscore
    words        ("norm", "100epochs")
    without_ssm  it has NoSSM in its name
    condition    "noise10": what else the trained network was validated under; "" for nothing else
    """

    base: str
    words: tuple[str, ...]
    without_ssm: bool
    condition: str = ""

    @cached_property
    def twin_key(self) -> tuple[str, str, tuple[str, ...]]:
        """Key (network, recipe, words) that is equal for trainers with the same twin."""
        words = tuple(word for word in self.words if word not in MIXER_WORDS)
        row = _BY_NAME.get(self.base)
        if row is None:
            return self.base, "", words
        row = _BY_NAME[row.twin or row.name]
        return NETWORKS[row.network].twin or row.network, row.recipe, words


_BY_NAME = {row.name: row for row in TRAINERS}


@cache
def parse_trainer(name: str) -> TrainerName:
    """Split a trainer's name into its parts, but for NoDecaySSM, which changes nothing without an SSM."""
    name, _, condition = name.partition(CONDITION)
    known = [base for base in _BY_NAME if re.match(rf"{base}({TWIN})?(_|$)", name)]
    plain = name.replace(TWIN, "")
    base = max(known, key=len) if known else plain.split("_")[0]
    words = tuple(word for word in plain.removeprefix(base).split("_") if word not in ("", NO_DECAY[1:]))
    return TrainerName(base, words, TWIN in name, condition)


def check_network(name: str) -> None:
    """Raise ValueError unless `create_network` knows the name."""
    if name in list_network_names():
        return
    trainer = next((row for row in TRAINERS if name == row.network or name in row.names()), None)
    if trainer is None:
        raise ValueError(format_unknown_name("network", name, list_network_names(), "nnunet-mamba networks"))
    if trainer.network in FAMILY:
        raise ValueError(f"{name!r} is a trainer; its network is {trainer.network}.")
    raise ValueError(f"{name!r} is a network of MONAI's, available for training only: {trainer.name}.")


def format_unknown_trainer(name: str) -> str:
    """Return the message for a trainer that does not exist."""
    parsed = parse_trainer(name)
    row = _BY_NAME.get(parsed.base)
    if row is not None and row.twin and parsed.without_ssm:
        twin = "_".join((row.twin_name(), *parsed.words))
        return f"Unknown trainer {name!r}. Without SSM {row.name} is {row.twin}: take {twin}."
    endings = {full: found for row in TRAINERS for full, found in row.endings().items()}
    begun = max((full for full in endings if name.startswith(f"{full}_")), key=len, default=None)
    if begun is not None:
        return f"Unknown trainer {name!r}. {begun} comes with {', '.join(endings[begun])}."
    return format_unknown_name("trainer", name, list_trainer_names(), "nnunet-mamba trainers", PREFIX)
