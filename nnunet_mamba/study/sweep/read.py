"""Reader of a study file (docs/sweep.md): from YAML by the schema to a Study, with all errors at once."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.io.cpu import count_usable_cpus
from nnunet_mamba.io.yaml import read_yaml
from nnunet_mamba.nnunet.paths import FOLDERS, Method, resolve_dataset_name
from nnunet_mamba.study.sweep.study import (
    CASCADE,
    LOWRES,
    STOCK_PLANNER,
    STOCK_PLANS,
    Condition,
    ConvertArguments,
    Dataset,
    Plans,
    Study,
    TestSet,
)

if TYPE_CHECKING:  # pydantic is imported when a file is read, not for studies made in code
    from nnunet_mamba.study.sweep import schema

DATASET = re.compile(r"Dataset\d{3}_[A-Za-z0-9_.+-]+")
VMAMBA = "NNUNET_MAMBA_VMAMBA"  # weights to start from, see nnunet_mamba.trainers.mamba


def read_study(file: Path) -> Study:
    """Return the study of a YAML file; ValueError tells what is wrong and where, a line for each error."""
    from pydantic import ValidationError

    from nnunet_mamba.study.sweep.schema import StudyFile
    from nnunet_mamba.study.sweep.schema_errors import describe_errors

    file = Path(file).resolve()
    content = read_yaml(file, "a study (YAML), see docs/sweep.md")
    if isinstance(content, dict):
        content = {"name": file.stem, **content}
    try:
        return _Resolver(file, StudyFile.model_validate(content)).resolve()
    except ValidationError as error:
        raise ValueError(describe_errors(error, file.name)) from None


@dataclass
class _Resolver:
    """Lookup of what the valid content of a file names; `errors` gathers what is wrong."""

    file: Path
    content: schema.StudyFile
    errors: list[str] = field(default_factory=list)

    def resolve(self) -> Study:
        content, device = self.content, self.content.device
        plans = self.resolve_plans()
        methods = self.resolve_methods(plans)
        trainers_from = tuple(self.find_trainers(text) for text in content.trainers_from)
        folders = self.find_folders()
        conditions = self.resolve_conditions()
        datasets = self.resolve_datasets(folders) if len(folders) == len(FOLDERS) else ()
        if self.errors:
            raise ValueError("\n".join(f"{self.file.name}: {error}" for error in self.errors))
        weights = os.environ.get(VMAMBA)
        return Study(
            name=content.name,
            out=Path(content.out or content.name).absolute(),
            device=device,
            folders=folders,
            trainers_from=trainers_from,
            variables={**({VMAMBA: weights} if weights else {}), **content.variables},
            datasets=datasets,
            plans=plans,
            methods=methods,
            folds=tuple(content.folds),
            seeds=tuple(map(int, content.seeds)) or (None,),
            protocols=tuple(content.protocols),
            metrics=tuple(content.metrics),
            tolerance_mm=tuple(content.tolerance_mm),
            baseline=content.baseline,
            margins=content.margins,
            threads=content.threads or (count_usable_cpus() if device == "cpu" else 8),
            gpus=content.gpus if device == "cuda" else 0,
            memory_gb=content.memory_gb,
            hours=content.hours,
            npz=content.npz,
            mirroring=content.mirroring,
            batched=content.batched_prediction,
            conditions=conditions,
        )

    def find_folders(self) -> dict[str, Path]:
        """Return nnU-Net's folders: of the file, or of the environment."""
        found = {}
        for variable in FOLDERS:
            key = variable.removeprefix("nnUNet_")
            given = getattr(self.content.folders, key)
            if text := os.environ.get(variable) if given is None else given:
                found[variable] = Path(text).absolute()
            else:
                self.errors.append(f"{variable} is not set; export it, or write folders: {{{key}: FOLDER}}.")
        return found

    def find(self, text: str, place: str) -> Path:
        """Return an absolute path; what is not absolute lies beside the study file."""
        path = self.file.parent / text
        if not path.exists():
            self.errors.append(f"{place}: {path} does not exist.")
        return path.resolve()

    def find_trainers(self, text: str) -> Path:
        folder = self.find(text, "trainers_from")
        if os.pathsep in str(folder):
            self.errors.append(
                f"trainers_from: nnU-Net takes {os.pathsep} for the end of a folder; rename {folder}."
            )
        return folder

    def resolve_plans(self) -> dict[str, Plans]:
        """Return the plans, and nnU-Net's own where a template is applied to them."""
        plans = {name: Plans(name, **entry.model_dump()) for name, entry in self.content.plans.items()}
        for name, each in plans.items():
            if each.template and (beside := self.file.parent / each.template).is_file():
                plans[name] = replace(each, template=str(beside))
        for name, source in [(each.name, each.source) for each in plans.values() if each.template]:
            if source == STOCK_PLANS:
                plans.setdefault(source, Plans(source, planner=STOCK_PLANNER))
            elif source not in plans:
                self.errors.append(f"plans: {name} are made from {source}, which the study does not have.")
        for name in plans:
            chain = [name]
            while chain[-1] in plans and plans[chain[-1]].template and chain[-1] not in chain[:-1]:
                chain.append(plans[chain[-1]].source)
            if chain[-1] in chain[:-1]:
                self.errors.append(f"plans are made from each other: {' from '.join(chain)}.")
                break
        return plans

    def resolve_methods(self, plans: Mapping[str, Plans]) -> tuple[Method, ...]:
        """Return `trainers` with all plans that no other plans are made from, and `methods`."""
        content = self.content
        bases = {each.source for each in plans.values() if each.template}
        every = [name for name in plans if name not in bases]
        chosen = [(trainer, every, content.configurations) for trainer in content.trainers]
        chosen += [
            (one.trainer, one.plans or every, one.configurations or content.configurations)
            for one in content.methods
        ]
        methods = [
            Method(trainer, name, configuration)
            for trainer, names, configurations in chosen
            for name in names
            for configuration in configurations
        ]
        if not self.errors:  # of the plans
            self.check_methods(methods, plans)
        return tuple(methods)

    def check_methods(self, methods: Sequence[Method], plans: Mapping[str, Plans]) -> None:
        if not methods:
            self.errors.append("the study trains nothing; expected trainers, or methods.")
        for method, times in Counter(methods).items():
            lowres = Method(method.trainer, method.plans, LOWRES)
            if times > 1:
                self.errors.append(f"{method} is listed twice.")
            if method.plans not in plans:
                self.errors.append(
                    f"{method.trainer} has plans {method.plans}, which are not among: {', '.join(plans)}."
                )
            if method.configuration == CASCADE and (
                lowres not in methods or set(self.content.folds) != set("01234")
            ):
                self.errors.append(f"{method} needs {lowres} in the same study, and the folds 0 to 4.")

    def resolve_conditions(self) -> tuple[Condition, ...]:
        """Return the conditions, as options."""
        entries = self.content.conditions
        if entries and set(self.content.folds) == {"all"}:
            self.errors.append("conditions are of the folds' own cases, and the fold all has none.")
        for name, entry in entries.items():
            if not entry.options():
                self.errors.append(f"conditions: {name} are those of the training; expected others.")
        return tuple(Condition(name, each.options(), each.without_mixer) for name, each in entries.items())

    def resolve_datasets(self, folders: Mapping[str, Path]) -> tuple[Dataset, ...]:
        datasets = []
        for i, entry in enumerate(self.content.datasets):
            try:
                datasets.append(self.resolve_dataset(entry, f"dataset {i + 1}", folders))
            except ValueError as error:
                self.errors.append(f"dataset {i + 1}: {error}")
        names = [dataset.name for dataset in datasets]
        if len(set(names)) < len(names):
            self.errors.append(f"datasets are {', '.join(names)}; expected each once.")
        return tuple(datasets)

    def resolve_dataset(self, entry: schema.DatasetEntry, place: str, folders: Mapping[str, Path]) -> Dataset:
        name = resolve_dataset_name(entry.dataset, folders.values())
        if not DATASET.fullmatch(name):
            raise ValueError(f"{name!r} is no name; expected Dataset###_ and letters, digits, _ . + and -.")
        raw = folders["nnUNet_raw"] / name
        convert = self.resolve_conversion(entry.convert, f"{place}: convert", raw) if entry.convert else None
        tests = [self.resolve_test(test, f"{place}: test {i + 1}", raw) for i, test in enumerate(entry.test)]
        return Dataset(name, convert, entry.split, entry.group, tuple(tests))

    def resolve_conversion(self, entry: schema.ConvertEntry, place: str, raw: Path) -> ConvertArguments:
        """Return the conversion, whose sources must exist until the dataset does."""
        converted = (raw / "dataset.json").is_file()
        paths = [self.file.parent / text if converted else self.find(text, place) for text in entry.sources]
        return ConvertArguments(entry.name, tuple(map(str, paths)), tuple(entry.options))

    def resolve_test(self, entry: schema.TestEntry, place: str, raw: Path) -> TestSet:
        """Return a test set; its folders are of the raw dataset, or paths beside the study file."""

        def find(text: str) -> Path:
            return raw / text if Path(text).name == text else self.find(text, place)

        return TestSet(
            entry.name, find(entry.images), find(entry.labels) if entry.labels else None, entry.parts
        )
