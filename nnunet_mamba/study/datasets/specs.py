"""Table of the data sets that can be converted, one `DatasetSpec` each. To add one, write it here and a test.

Layouts, counts and licences are those of the releases as they are described in public; `open_points` names
what could not be confirmed. docs/datasets.md is printed from this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_mamba.io.images import ITK, NIBABEL_REORIENTING
from nnunet_mamba.io.messages import format_unknown_name
from nnunet_mamba.study.datasets import pictures
from nnunet_mamba.study.datasets.acdc import select_phases
from nnunet_mamba.study.datasets.layout import Part
from nnunet_mamba.study.datasets.source import UNCHANGED_PIXELS, PixelConversion, Source, is_same_word

Layout = tuple[Part, ...]
LONGRANGE = "longrange"  # no release: `study.datasets.longrange` makes it


@dataclass(frozen=True)
class DatasetSpec:
    """Specification of one data set.

    number, folder  of nnU-Net's name, Dataset###_Folder; None: as the Decathlon task says
    channels, labels  of dataset.json; a list of integers is a region. None: as the Decathlon task says
    stored_labels  name -> value in the files, where `labels` are regions of these
    layouts   forms of the release, the first that fits is taken; none: a Decathlon task, whose own
              dataset.json describes it
    group     regular expression of the patient at the beginning of a case's name, if patients have several
    accept    kinds of issues that every copy of the data has
    reader    of nnU-Net, where its own choice would read these files wrongly
    published  numbers of cases in the release by part, for information
    regions_class_order  for labels that are regions
    annotate  function that adds other facts of the release to a source
    """

    title: str
    number: int | None
    folder: str | None
    layouts: tuple[Layout, ...]
    published: Mapping[str, int]
    licence: str
    obtain: str
    papers: str
    channels: tuple[str, ...] | None = None
    labels: Mapping[str, Any] | None = None
    stored_labels: Mapping[str, int] | None = None
    file_ending: str = ".nii.gz"
    pixels: PixelConversion = UNCHANGED_PIXELS
    group: str | None = None
    accept: tuple[str, ...] = ()
    reader: str | None = None
    regions_class_order: tuple[int, ...] | None = None
    annotate: Callable[[Source], Source] | None = None
    aliases: tuple[str, ...] = ()
    open_points: str = ""


def number_labels(*names: str) -> dict[str, int]:
    """Return the names with their numbers, from background on."""
    return {name: number for number, name in enumerate(("background", *names))}


def nnunet_layout(case: str) -> Layout:
    """Return nnU-Net's layout of volumes with one channel."""
    return (
        Part((f"imagesTr/<case:{case}>_0000.nii.gz",), "labelsTr/<case>.nii.gz"),
        Part((f"imagesTs/<case:{case}>_0000.nii.gz",), "labelsTs/<case>.nii.gz", role="test"),
    )


def amos_layout(number: str) -> Layout:
    """Return AMOS22's layout for cases whose number matches the expression."""
    case = f"<case:amos_{number}>"
    return (
        Part((f"imagesTr/{case}.nii.gz",), "labelsTr/<case>.nii.gz"),
        Part((f"imagesVa/{case}.nii.gz",), "labelsVa/<case>.nii.gz", role="val"),
        Part((f"imagesTs/{case}.nii.gz",), "labelsTs/<case>.nii.gz", role="test"),
    )


CT, MR = r"(?:0[0-4]\d\d|0500)", r"(?:050[1-9]|05[1-9]\d|0600)"
AMOS_LABELS = number_labels(
    "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta",
    "postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder",
    "prostate/uterus",
)  # fmt: skip
AMOS: dict[str, Any] = {
    "labels": AMOS_LABELS,
    "reader": NIBABEL_REORIENTING,
    "licence": "CC BY 4.0 as others report it (open: read the Zenodo record)",
    "obtain": "https://zenodo.org/records/7262581, amos22.zip (23 GB)",
}
BTCV_LABELS = number_labels(
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip
BTCV: dict[str, Any] = {
    "channels": ("CT",),
    "layouts": (
        (
            Part(("Training/img/img<n:\\d{4}>.nii.gz",), "Training/label/label<n>.nii.gz", case="img{n}"),
            Part(("<part:Testing|Test>/img/img<n:\\d{4}>.nii.gz",), role="test", case="img{n}"),
        ),
    ),
    "published": {"train": 30, "test": 20},
    "licence": "terms of Synapse syn3193805, none of Creative Commons found (open)",
    "obtain": "https://www.synapse.org/#!Synapse:syn3193805, Files, Abdomen, RawData.zip (free registration)",
}
TUMOUR_REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
GLIOMA: dict[str, Any] = {
    "channels": ("T1", "T1ce", "T2", "Flair"),
    "labels": TUMOUR_REGIONS,
    "regions_class_order": (1, 2, 3),
    "published": {"train": 1251, "test": 219},
}
TUMOUR_PARTS = number_labels("edema", "non-enhancing tumor", "enhancing tumor")
DECATHLON_BRAIN: dict[str, Any] = {
    "layouts": (),
    "channels": ("FLAIR", "T1w", "t1gd", "T2w"),
    "published": {"train": 484, "test": 266},
    "licence": "CC BY-SA 4.0",
    "obtain": "http://medicaldecathlon.com, Task01_BrainTumour.tar",
}
ABDOMEN_13 = number_labels(
    "liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland",
    "left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney",
)  # fmt: skip
RGB = ("R", "G", "B")  # z-scored by nnU-Net, as U-Mamba's were
SKIN: dict[str, Any] = {
    "channels": RGB,
    "labels": number_labels("lesion"),
    "file_ending": ".png",
    "pixels": PixelConversion(
        image=pictures.read_colours, recode={0: 0, 1: 1, 255: 1}
    ),  # 1: in one-bit masks
    "licence": "CC-0 (segmentation)",
    "obtain": "https://challenge.isic-archive.com/data, images and ground truth of the segmentation task",
}
SKIN_OPEN = (
    "The 7:3 split of VM-UNet is known only to its authors' archive (data/isicXX/{train,val}), which is read "
    "too; `--split 7:3` draws another one. Both years share many images: do not train on one and test on "
    "the other."
)


def skin_layouts(data: str, truth: str, test: str) -> tuple[Layout, ...]:
    """Return the layouts of ISIC's folders, and of MALUNet's archive, which VM-UNet uses."""
    case = r"<case:ISIC_\d{7}>"
    official = tuple(
        Part(
            (f"{data.format(part)}/{case}.jpg",),
            f"{truth.format(part)}/<case>_segmentation.png",
            role=role,
        )
        for part, role in (("Training", "train"), ("Validation", "val"), (test, "test"))
    )
    prepared = tuple(
        Part((f"{role}/images/{case}.<e:png|jpg>",), f"{role}/masks/<case><s:(?:_segmentation)?>.png", role)
        for role in ("train", "val")
    )
    return official, prepared


def glioma_layout(case: str, sign: str, channels: tuple[str, ...], ending: str) -> Layout:
    """Return a layout with a folder per case; those below a folder of validation data lack labels."""

    def part(top: str, role: str) -> Part:
        places = [f"<top:{top}><case:{case}>/<case>", *["<top><case>/<case>"] * len(channels)]
        *images, label = (
            f"{place}{sign}{name}{ending}" for place, name in zip(places, (*channels, "seg"), strict=True)
        )
        return Part(tuple(images), label, role)

    unlabelled = "[^/]*Validation_?Data[^/]*/"
    return part(f"(?:.*/)?(?!{unlabelled})[^/]+/", "train"), part(f"(?:.*/)?{unlabelled}", "test")


def endoscopy_layout() -> Layout:
    """Return EndoVis 2017's layout: training frames of eight videos, test frames of these and two more.

    A video is one surgery.
    """
    images = "<top:(?:.*/)?>instrument_dataset_<video:{}>/left_frames/<frame:frame{}>.png"
    masks = "<top:(?:.*/)?>instrument_dataset_<video>/ground_truth/<tool:[^/]+>/<frame>.png"
    truth = "<top:(?:.*/)?>instrument_dataset_<video>/<gt:(?:gt/)?>TypeSegmentation/<frame>.png"
    case = "video{video}_{frame}"
    return (
        Part(
            (images.format("[1-8]", r"(?:[01]\d\d|2[01]\d|22[0-4])"),), masks, case=case, several_labels=True
        ),
        Part((images.format("[1-8]", r"2(?:2[5-9]|[3-9]\d)"),), truth, "test", case),
        Part((images.format("9|10", r"\d{3}"),), truth, "test", case),
    )


def cells_layout() -> Layout:
    """Return the layout of the NeurIPS 2022 Cell Segmentation challenge."""
    pictures_of = "{}/images/<n:cell_\\d+>.<e:png|bmp|tif|tiff|jpg|jpeg>"
    return tuple(
        Part((pictures_of.format(folder),), f"{folder}/labels/<n>_label.tiff", role, case)
        for folder, role, case in (
            ("<top:Training-labeled|Train_Labeled>", "train", "{n}"),
            ("Tuning", "test", "tuning_{n}"),
        )
    )


DATASETS: dict[str, DatasetSpec] = {
    "amos22_ct": DatasetSpec(
        "AMOS22, task 1: abdomen, CT",
        218,
        "AMOS2022_postChallenge_task1",
        channels=("CT",),
        layouts=(amos_layout(CT),),
        published={"train": 200, "val": 100, "test": 200},
        papers="MM-UNet (5 folds over the 300 labelled)",
        aliases=("amos", "amos22", "amos2022", "amos_ct", "amos22_task1"),
        open_points="MM-UNet does not say how five models became one test score.",
        **AMOS,
    ),
    "amos22_ct_mr": DatasetSpec(
        "AMOS22, task 2: abdomen, CT and MR",
        219,
        "AMOS2022_postChallenge_task2",
        channels=("either_CT_or_MR",),
        layouts=(amos_layout(r"0\d{3}"),),
        published={"train": 240, "val": 120, "test": 240},
        papers="nnU-Net Revisited (5 folds over 360)",
        aliases=("amos22_task2", "amos_ct_mr"),
        open_points="MR scans have no label of bladder and prostate/uterus.",
        **AMOS,
    ),
    "amos22_mr": DatasetSpec(
        "AMOS22: abdomen, MR alone",
        217,
        "AMOS2022_postChallenge_MR",
        channels=("MRI",),
        layouts=(amos_layout(MR),),
        published={"train": 40, "val": 20, "test": 40},
        papers="",
        aliases=("amos_mr",),
        open_points="No label of bladder and prostate/uterus occurs; amos_0540 is scaled into the millions.",
        **AMOS,
    ),
    "synapse": DatasetSpec(
        "Synapse / BTCV: abdomen, CT, 13 organs",
        90,
        "SynapseAbdomen",
        labels=BTCV_LABELS,
        papers="MM-UNet, Taming Mambas, nnFormer, UNETR",
        aliases=("btcv", "synapse13"),
        open_points="MM-UNet's 24 training and 4 validation cases are not named. Taming Mambas' 18 cases "
        "are BTCV's first 18 if it kept the numbers.",
        **BTCV,
    ),
    "synapse8": DatasetSpec(
        "Synapse / BTCV: the 8 organs of TransUNet",
        91,
        "SynapseAbdomen8",
        labels=number_labels(
            "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"
        ),
        pixels=PixelConversion(
            recode={
                8: 1,
                4: 2,
                3: 3,
                2: 4,
                6: 5,
                11: 6,
                1: 7,
                7: 8,
                **dict.fromkeys((0, 5, 9, 10, 12, 13), 0),
            }
        ),
        papers="VM-UNet, TransUNet (18/12)",
        aliases=("btcv8",),
        **BTCV,
    ),
    "acdc": DatasetSpec(
        "ACDC: heart, cine MR, end diastole and end systole",
        27,
        "ACDC",
        channels=("cineMRI",),
        labels=number_labels("RV", "MYO", "LV"),
        layouts=(
            tuple(
                Part(
                    (f"{folder}/<patient:patient\\d{{3}}>/<case:patient\\d{{3}}_frame\\d{{2}}>.nii.gz",),
                    f"{folder}/<patient>/<case>_gt.nii.gz",
                    role,
                )
                for folder, role in (("training", "train"), ("testing", "test"))
            ),
        ),
        published={"train": 200, "test": 100},
        group=r"patient\d{3}",
        annotate=select_phases,
        reader=ITK,  # the sform of these files is a unit matrix, the true spacing is in qform and pixdim
        accept=("header",),
        licence="citation required; CC BY-NC-SA 4.0 on a copy (open)",
        obtain="https://humanheart-project.creatis.insa-lyon.fr (no registration)",
        papers="Taming Mambas, Mamba-UNet, nnFormer",
        open_points="The form of a submission (patient101_ED.nii.gz) is known from comments in code only.",
    ),
    "msd_braintumour": DatasetSpec(
        "Decathlon Task 1: brain tumours, labels",
        1,
        "BrainTumour",
        labels=TUMOUR_PARTS,
        papers="Taming Mambas, nnFormer (387/73/24)",
        aliases=("braintumour", "task01_braintumour"),
        open_points="UNETR's split was never published.",
        **DECATHLON_BRAIN,
    ),
    "msd_braintumour_regions": DatasetSpec(
        "Decathlon Task 1: brain tumours, regions WT, TC, ET",
        101,
        "BrainTumourRegions",
        labels=TUMOUR_REGIONS,
        stored_labels=TUMOUR_PARTS,
        regions_class_order=(1, 2, 3),
        papers="the regions that nnFormer and Taming Mambas score",
        aliases=("braintumour_regions",),
        **DECATHLON_BRAIN,
    ),
    "msd": DatasetSpec(
        "any task of the Medical Segmentation Decathlon",
        None,
        None,
        layouts=(),
        published={},
        licence="CC BY-SA 4.0",
        obtain="http://medicaldecathlon.com",
        papers="",
        aliases=("decathlon",),
    ),
    "brats21": DatasetSpec(
        "BraTS 2021: glioma, regions WT, TC, ET",
        137,
        "BraTS2021",
        pixels=PixelConversion(recode={0: 0, 2: 1, 1: 2, 4: 3}),
        layouts=(glioma_layout(r"BraTS2021_\d{5}", "_", ("t1", "t1ce", "t2", "flair"), ".nii.gz"),),
        licence="CC BY-NC-SA 4.0 as others report it (open)",
        obtain="https://www.synapse.org/#!Synapse:syn25829067 (registration)",
        papers="nnU-Net Revisited",
        aliases=("brats2021",),
        **GLIOMA,
    ),
    "brats23": DatasetSpec(
        "BraTS 2023 GLI: glioma, regions WT, TC, ET",
        138,
        "BraTS2023GLI",
        pixels=PixelConversion(recode={0: 0, 2: 1, 1: 2, 3: 3}),
        layouts=(
            glioma_layout(r"BraTS-GLI-\d{5}-\d{3}", "-", ("t1n", "t1c", "t2w", "t2f"), ".nii<z:(?:\\.gz)?>"),
        ),
        group=r"BraTS-GLI-\d{5}",
        licence="terms of Synapse syn51156910 (open)",
        obtain="https://www.synapse.org/Synapse:syn51156910 (registration)",
        papers="SegMamba (70/10/20, cases not named in its paper)",
        aliases=("brats2023", "brats23_gli"),
        open_points="How many patients have several time points is not known; folds go by patients.",
        **GLIOMA,
    ),
    "flare22": DatasetSpec(
        "FLARE22: abdomen, CT, 13 organs",
        701,
        "AbdomenCT",
        channels=("CT",),
        labels=ABDOMEN_13,
        layouts=(
            (
                Part(("images/<case:FLARE22_Tr_\\d{4}>_0000.nii.gz",), "labels/<case>.nii.gz"),
                Part(("images/<case:FLARETs_\\d{4}>_0000.nii.gz",), "labels/<case>.nii.gz", role="test"),
            ),
            nnunet_layout(r"FLARE22_Tr_\d{4}|FLARETs_\d{4}"),
        ),
        published={"train": 50, "test": 50},
        licence="reported as CC BY 4.0, CC BY-NC-SA 4.0 and CC BY-SA 4.0 (open)",
        obtain="https://zenodo.org/records/7860267, FLARE22Train.zip; or U-Mamba's Dataset701_AbdomenCT",
        papers="U-Mamba (fold all; 50 tuning cases as test)",
        aliases=("abdomen_ct", "flare", "flare2022"),
        open_points="The hidden test set reuses the names FLARETs_0001...: never mix it with the tuning set.",
    ),
    "abdomen_mr": DatasetSpec(
        "U-Mamba's abdomen MR (scans of AMOS22, 13 organs)",
        702,
        "AbdomenMR",
        channels=("MR",),
        labels=ABDOMEN_13,
        layouts=(nnunet_layout(r"amos_\d{4}"),),
        published={"train": 60, "test": 50},
        licence="derived from AMOS22; none stated (open)",
        obtain="https://github.com/bowang-lab/U-Mamba, data/README.md: Dataset702_AbdomenMR",
        papers="U-Mamba, Swin-UMamba (fold all)",
        open_points="The paper says 60 training cases, its dataset.json 50.",
    ),
    "endovis17": DatasetSpec(
        "EndoVis 2017: surgical tools in endoscopy, 7 types",
        704,
        "Endovis17",
        channels=RGB,
        labels=number_labels(*(name.replace("_", " ") for name in pictures.INSTRUMENTS)),
        file_ending=".png",
        layouts=(endoscopy_layout(),),
        pixels=PixelConversion(image=pictures.read_endoscopy, label=pictures.read_instruments),
        group=r"video\d+",
        accept=("empty",),
        published={"train": 1800, "test": 1200},
        licence="none stated (open)",
        obtain="https://endovissub2017-roboticinstrumentsegmentation.grand-challenge.org (registration)",
        papers="U-Mamba, Swin-UMamba (fold all, 1800/1200)",
        aliases=("endovis", "endovis2017", "endoscopy"),
        open_points="Test frames of videos 1 to 8 continue the training videos: the official test set is not "
        "independent. U-Mamba calls type 7 ultrasound probe, the release other. Where tools overlap, the "
        "later folder name wins.",
    ),
    "cellseg": DatasetSpec(
        "NeurIPS 2022 Cell Segmentation: microscopy, interior and boundary of cells",
        703,
        "NeurIPSCell",
        channels=RGB,
        labels=number_labels("interior", "boundary"),
        file_ending=".png",
        layouts=(cells_layout(),),
        pixels=PixelConversion(image=pictures.read_microscopy, label=pictures.read_interior_and_boundary),
        published={"train": 1000, "test": 101},
        licence="CC BY-NC-ND as remembered (open)",
        obtain="https://zenodo.org/records/10719375, Training-labeled.zip and Tuning.zip",
        papers="U-Mamba, Swin-UMamba (fold all; the 101 tuning images as test)",
        aliases=("neurips_cell", "neurips_cellseg", "neurips22", "microscopy"),
        open_points="That U-Mamba's 101 test images are the tuning set is inferred from their number.",
    ),
    "isic17": DatasetSpec(
        "ISIC 2017: skin lesions, dermoscopy",
        705,
        "ISIC2017",
        layouts=skin_layouts("ISIC-2017_{}_Data", "ISIC-2017_{}_Part1_GroundTruth", "Test_v2"),
        published={"train": 2000, "val": 150, "test": 600},
        papers="VM-UNet (1500/650 of 2150)",
        aliases=("isic2017",),
        open_points=SKIN_OPEN,
        **SKIN,
    ),
    "isic18": DatasetSpec(
        "ISIC 2018 task 1: skin lesions, dermoscopy",
        706,
        "ISIC2018",
        layouts=skin_layouts("ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth", "Test"),
        published={"train": 2594, "val": 100, "test": 1000},
        papers="VM-UNet (1886/808 of 2694)",
        aliases=("isic2018",),
        open_points=SKIN_OPEN,
        **SKIN,
    ),
}


def guess_group(source: Source) -> str | None:
    """Return the pattern of patients that all cases match, if only one of the data sets' patterns does."""
    names = [case.name for case in source.cases]
    patterns = {spec.group for spec in DATASETS.values() if spec.group is not None}
    fitting = [pattern for pattern in patterns if all(re.match(pattern, name) for name in names)]
    return fitting[0] if len(fitting) == 1 else None


def get_spec(name: str) -> tuple[str, DatasetSpec]:
    """Return name and specification of a data set by its name or an alias; capitals and signs do not matter.

    ValueError for unknown names.
    """
    for known, spec in DATASETS.items():
        if any(is_same_word(name, word) for word in (known, *spec.aliases)):
            return known, spec
    raise ValueError(format_unknown_name("data set", name, DATASETS, "nnunet-mamba convert --list"))
