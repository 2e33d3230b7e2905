"""Schema of a study file (docs/sweep.md): keys, kinds of values and defaults, as pydantic models.

Editors read study.schema.json, which is made of them anew by: python -m nnunet_mamba.study.sweep.schema
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema

from nnunet_mamba.study.sweep.schema_values import (
    Also,
    ConditionName,
    Configuration,
    Count,
    Device,
    Entries,
    Finite,
    Fold,
    Items,
    Margin,
    MethodPart,
    Metric,
    Name,
    Network,
    NumberText,
    Pattern,
    Planner,
    Protocol,
    Release,
    Seed,
    SomeItems,
    Unique,
    Variable,
    Word,
)
from nnunet_mamba.study.sweep.study import CROSSVAL, STOCK_PLANNER, STOCK_PLANS

FILE = Path(__file__).with_name("study.schema.json")


class Section(BaseModel):
    """Mapping of a study file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_nothing(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("expected a value, or no such key.")
        return value


class FoldersEntry(Section):
    """nnU-Net's folders; default: its variables nnUNet_raw, nnUNet_preprocessed, nnUNet_results."""

    raw: Word | None = Field(None, description="folder of datasets")
    preprocessed: Word | None = Field(None, description="folder of plans and preprocessed data")
    results: Word | None = Field(None, description="folder of trainings")


class ConvertEntry(Section):
    """Conversion of a release into this dataset, by `nnunet-mamba convert`; may be left out."""

    name: Release = Field(description="name of the release")
    sources: Items[Word] = Field([], description="its folders or archives, beside the study file")
    options: Items[Word] = Field([], description="further options of `nnunet-mamba convert`")


class TestEntry(Section):
    """Images that no training sees."""

    name: Name = Field("test", description="name of the test set")
    images: Word = Field("imagesTs", description="folder of the raw dataset, or a path beside the study file")
    labels: Word | None = Field(None, description="the same for labels; without them nothing is scored")
    parts: Count = Field(1, description="jobs that share the prediction")


class DatasetEntry(Section):
    """Dataset: its conversion, split and test sets."""

    dataset: Word = Field(description="Dataset###_Name, or the number of one that exists")
    convert: ConvertEntry | None = None
    split: Word | None = Field(None, description="as `nnunet-mamba plans split`; default: the existing one")
    group: Pattern | None = Field(None, description="regular expression of the patient in a case's name")
    test: Entries[TestEntry] = Field([], description="any number of test sets")

    @model_validator(mode="after")
    def _check_names(self) -> DatasetEntry:
        if self.convert and not self.dataset.startswith("Dataset"):
            raise ValueError("of one to convert, write the whole name: Dataset###_Name.")
        names = [test.name for test in self.test]
        if CROSSVAL in names or len(set(names)) < len(names):
            raise ValueError(f"test sets are {', '.join(names)}; expected each once, and none {CROSSVAL}.")
        return self


class PlansEntry(Section):
    """Origin of plans: planner, template, vram_gb or own; by default nnU-Net's own planner."""

    planner: Planner | None = Field(None, description="planner of nnU-Net's")
    template: Word | None = Field(
        None, description="as `nnunet-mamba plans apply`, or a file beside the study"
    )
    source: Word = Field(STOCK_PLANS, alias="from", description="plans that the template is applied to")
    vram_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="memory in GiB of the card to plan for"
    )
    network: Network | None = Field(None, description="network to plan for, as `nnunet-mamba plans make`")
    own: bool = Field(False, description="your own plans, already in nnUNet_preprocessed")

    @model_validator(mode="after")
    def _check_origin(self) -> PlansEntry:
        if sum(map(bool, (self.planner, self.template, self.own, self.vram_gb and not self.template))) > 1:
            raise ValueError("several origins; expected planner, template, vram_gb or own.")
        if self.vram_gb and not self.template and not self.network:
            raise ValueError("vram_gb plans for a network; name it: network: mm_unet")
        if self.network and not self.vram_gb and not self.template:
            raise ValueError(f"the network {self.network} needs vram_gb, or a template.")
        if not (self.template or self.own or self.vram_gb):
            self.planner = self.planner or STOCK_PLANNER
        return self


class MethodEntry(Section):
    """Trainer, and what it is trained with."""

    trainer: MethodPart = Field(description="as nnUNetv2_train -tr; `nnunet-mamba trainers` lists them")
    plans: SomeItems[MethodPart] | None = Field(None, description="default: those below no template")
    configurations: SomeItems[Configuration] | None = Field(None, description="default: those of the study")


class ConditionEntry(Section):
    """Conditions of `nnunet-mamba validate`; the defaults are those of the training's own validation."""

    without_mixer: bool = Field(False, description="switch the mixers off, in networks that have some")
    mirroring: bool = Field(True, description="average over mirrored copies")
    step_size: float = Field(0.5, gt=0, le=1, description="from tile to tile, in patches")
    gamma: Finite = Field(1.0, gt=0, description="power of the intensities")
    brightness: Finite = Field(0.0, description="added to them, in standard deviations")
    noise: Finite = Field(0.0, ge=0, description="added to them, in standard deviations")

    def options(self) -> tuple[str, ...]:
        """Return the options of `nnunet-mamba validate`."""
        flags = ["--without-mixer"] * self.without_mixer + ["--disable_tta"] * (not self.mirroring)
        numbers = {
            "-step_size": (self.step_size, 0.5),
            "--gamma": (self.gamma, 1.0),
            "--brightness": (self.brightness, 0.0),
            "--noise": (self.noise, 0.0),
        }
        given = [(name, f"{value:g}") for name, (value, default) in numbers.items() if value != default]
        return (*flags, *(word for pair in given for word in pair))


AnyPlans = Annotated[PlansEntry, Also(type(None), lambda _: {}, {"type": "null"})]
AnyMethod = Annotated[MethodEntry, Also(str, lambda trainer: {"trainer": trainer}, {"type": "string"})]
AnyDataset = Annotated[
    DatasetEntry, Also((str, int), lambda name: {"dataset": name}, {"type": ["string", "integer"]})
]


class StudyFile(Section):
    """Study of `nnunet-mamba sweep`: what is trained on what, and how it is evaluated (docs/sweep.md)."""

    name: Name = Field("", description="name of the study; default: the file's")
    out: Word | None = Field(None, description="folder of what the study makes; default: its name")
    device: Device = Field("cuda", description="device of trainings and predictions")
    datasets: Entries[AnyDataset] = Field(min_length=1, description="datasets, by number, name or keys")
    configurations: Items[Configuration] = Field(["3d_fullres"], description="nnU-Net's configurations")
    plans: dict[MethodPart, AnyPlans] = Field(
        default_factory=lambda: {STOCK_PLANS: PlansEntry.model_validate({})},
        min_length=1,
        description="names of plans, and their origin; default: nnUNetPlans by nnU-Net's own planner",
    )
    trainers: Items[MethodPart] = Field([], description="each with all plans and configurations")
    methods: Entries[AnyMethod] = Field([], description="trainers with plans of their own")
    folds: Annotated[SomeItems[Fold], Unique] = Field(list("01234"), description="folds, or all")
    seeds: Annotated[Items[Seed], Unique] = Field([], description="of trainings; default: unseeded")
    protocols: Annotated[SomeItems[Protocol], Unique] = Field(["honest"], description="docs/evaluation.md")
    metrics: Annotated[Items[Metric], Unique] = Field([], description="default: the protocol's")
    tolerance_mm: Annotated[Items[NumberText], Unique] = Field([], description="of NSD")
    baseline: Word | None = Field(None, description="method to compare with, as `nnunet-mamba compare`")
    margins: dict[Metric, Margin] = Field(
        default_factory=dict, description="differences below which methods count as equivalent, by metric"
    )
    threads: Count | None = Field(None, description="per training; default: 8, on a CPU all processors")
    gpus: Count = Field(1, description="GPUs per training; more is nnU-Net's DDP")
    memory_gb: Count = Field(32, description="asked of the cluster, per training")
    hours: Count = Field(48, description="asked of the cluster, per training, which may take longer")
    npz: bool = Field(False, description="keep probabilities, for nnU-Net's ensembles")
    mirroring: bool = Field(True, description="average over mirrored copies of test sets")
    conditions: dict[ConditionName, ConditionEntry] = Field(
        default_factory=dict, description="names of conditions under which folds are validated again"
    )
    batched_prediction: bool = Field(False, description="predict and validate with `nnunet-mamba predict`")
    trainers_from: Items[Word] = Field([], description="folders of your own trainers")
    variables: dict[Variable, Word] = Field(
        default_factory=dict, description="environment of trainings and predictions"
    )
    folders: FoldersEntry = Field(default_factory=FoldersEntry.model_construct)


class _Generator(GenerateJsonSchema):
    """Generator of the JSON schema, without titles of fields and without null, which no key may be."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        described, default = self.generate_inner(schema["schema"]), schema.get("default")
        return described if default in (None, "", []) else {**described, "default": default}


def format_json_schema() -> str:
    """Return the JSON schema (draft 7) that editors read."""
    schema = StudyFile.model_json_schema(schema_generator=_Generator)
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(format_json_schema(), encoding="utf-8")
