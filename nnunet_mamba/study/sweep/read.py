"""Reader of a study's YAML file (docs/sweep.md); errors name the place and what was expected there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nnunet_mamba.io.cpu import count_usable_cpus
from nnunet_mamba.nnunet.paths import FOLDERS, Method, resolve_dataset_name
from nnunet_mamba.study.sweep.fields import NAME, Fields, check_exists, check_name
from nnunet_mamba.study.sweep.study import (
    CASCADE,
    LOWRES,
    STOCK_PLANS,
    ConvertArguments,
    Dataset,
    Plans,
    Study,
    TestSet,
)

DEVICES = ("cuda", "cpu", "mps")
DATASET = re.compile(r"Dataset\d{3}_[A-Za-z0-9_.+-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FOLDS = tuple("01234")
VMAMBA = "NNUNET_MAMBA_VMAMBA"  # see nnunet_mamba.trainers.mamba


def read_study(file: Path) -> Study:
    """Return the study of a YAML file; ValueError names what is wrong and where."""
    file = Path(file).resolve()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file} does not exist; expected a study (YAML), see docs/sweep.md.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    return _read(Fields(content, file.name), file)


def _read(top: Fields, file: Path) -> Study:
    name = check_name(top.text("name", file.stem), f"{file.name}: name")
    device = top.choice("device", DEVICES, "cuda")
    folders = _read_folders(top)
    plans = _read_plans(top, file)
    methods = _read_methods(top, plans, top.texts("configurations", ("3d_fullres",)))
    folds = _read_folds(top)
    _check_cascades(methods, folds, top.where)
    gpus = top.number("gpus", 1, least=1)
    study = Study(
        name=name,
        out=Path(top.text("out", name)).absolute(),
        device=device,
        folders=folders,
        trainers_from=tuple(
            _trainer_folder(file.parent / text, top.where) for text in top.texts("trainers_from")
        ),
        variables=_read_variables(top),
        datasets=_read_datasets(top, file, folders),
        plans=plans,
        methods=methods,
        folds=folds,
        seeds=_read_seeds(top),
        protocols=top.texts("protocols", ("honest",)),
        metrics=top.texts("metrics"),
        tolerance_mm=top.texts("tolerance_mm"),
        baseline=top.text("baseline", None),
        threads=top.number("threads", _default_threads(device), least=1),
        gpus=gpus if device == "cuda" else 0,
        memory_gb=top.number("memory_gb", 32, least=1),
        hours=top.number("hours", 48, least=1),
        npz=top.flag("npz"),
        mirroring=top.flag("mirroring", default=True),
        batched=top.flag("batched_prediction"),
    )
    top.check_all_taken()
    return study


def _read_variables(top: Fields) -> dict[str, str]:
    """Return the variables that the study names; and the weights to start from, wherever they are named."""
    given = Fields(top.mapping("variables", {}), f"{top.where}: variables")
    for name in given.content:
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise ValueError(f"{given.where}: {name!r} cannot be a variable; expected letters, digits and _.")
    named = {name: str(given.text(name)) for name in list(given.content)}
    weights = os.environ.get(VMAMBA)
    return {**({VMAMBA: weights} if weights else {}), **named}


def _default_threads(device: str) -> int:
    """Return the threads of a training: on a CPU all processors, beside a GPU enough for augmentation."""
    return count_usable_cpus() if device == "cpu" else 8


def _read_folders(top: Fields) -> dict[str, Path]:
    given = Fields(top.mapping("folders", {}), f"{top.where}: folders")
    found = {}
    for variable in FOLDERS:
        text = given.text(variable.removeprefix("nnUNet_"), os.environ.get(variable))
        if not text:
            raise ValueError(
                f"{variable} is not set; export it, or write folders: {{{variable.removeprefix('nnUNet_')}: "
                f"FOLDER}} into {top.where}."
            )
        found[variable] = Path(text).absolute()
    given.check_all_taken()
    return found


def _read_plans(top: Fields, file: Path) -> dict[str, Plans]:
    table = top.mapping("plans", {STOCK_PLANS: {}})
    plans = {
        str(name): _read_one_plans(str(name), content or {}, top, file) for name, content in table.items()
    }
    for each in list(plans.values()):
        if each.template and each.source not in plans:
            if each.source != STOCK_PLANS:
                raise ValueError(
                    f"{top.where}: plans {each.name} are made from {each.source}, which the study "
                    "does not have."
                )
            plans[STOCK_PLANS] = Plans(STOCK_PLANS, planner="ExperimentPlanner")
    for each in plans.values():
        _check_circle(each, plans, top.where)
    if not plans:
        raise ValueError(f"{top.where}: plans are empty; leave the key out for nnU-Net's own.")
    return plans


def _check_circle(plans: Plans, table: Mapping[str, Plans], where: str) -> None:
    chain = [plans.name]
    while table[chain[-1]].template:
        chain.append(table[chain[-1]].source)
        if chain[-1] in chain[:-1]:
            raise ValueError(f"{where}: plans are made from each other: {' from '.join(chain)}.")


def _read_one_plans(name: str, content: Any, top: Fields, file: Path) -> Plans:
    where = f"{top.where}: plans: {check_name(name, f'{top.where}: plans')}"
    f = Fields(content, where)
    planner, template = f.text("planner", None), f.text("template", None)
    vram_gb = f.take("vram_gb", (int, float), None, what="GiB of the card")
    network, source, own = f.text("network", None), f.text("from", STOCK_PLANS), f.flag("own")
    f.check_all_taken()
    makes = [planner, template, own or None, None if template else vram_gb]
    if sum(make is not None for make in makes) > 1:
        raise ValueError(f"{where} have several origins; expected planner, template, vram_gb or own.")
    if vram_gb is not None and not template and not network:
        raise ValueError(f"{where}: vram_gb plans for a network; name it: network: mm_unet")
    if network and vram_gb is None and not template:
        raise ValueError(f"{where}: the network {network} needs vram_gb, or a template.")
    if template and (file.parent / template).is_file():
        template = str(file.parent / template)
    if not any(make is not None for make in makes):
        planner = "ExperimentPlanner"
    return Plans(name, planner, template, source, network, vram_gb, own)


def _read_datasets(top: Fields, file: Path, folders: Mapping[str, Path]) -> tuple[Dataset, ...]:
    datasets = tuple(
        _read_dataset({"dataset": entry} if isinstance(entry, (str, int)) else entry, i, top, file, folders)
        for i, entry in enumerate(top.list("datasets"))
    )
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{top.where}: datasets are {names or 'none'}; expected each once, and at least one."
        )
    return datasets


def _read_dataset(entry: Any, i: int, top: Fields, file: Path, folders: Mapping[str, Path]) -> Dataset:
    f = Fields(entry, f"{top.where}: dataset {i + 1}")
    given = str(f.text("dataset"))
    convert = f.mapping("convert", None)
    if convert is not None and not given.startswith("Dataset"):
        raise ValueError(f"{f.where} is {given!r}; of one to convert, write the whole name: Dataset###_Name.")
    name = resolve_dataset_name(given, folders.values())
    if not DATASET.fullmatch(name):
        raise ValueError(f"{f.where} is {name!r}; expected Dataset###_ and letters, digits, _ . + and -.")
    raw = folders["nnUNet_raw"] / name
    split, group = f.text("split", None), f.text("group", None)
    tests = tuple(_read_test(test, f.where, file, raw) for test in f.list("test", []))
    f.check_all_taken()
    converted = (raw / "dataset.json").is_file()
    return Dataset(name, _read_conversion(convert, f.where, file, converted=converted), split, group, tests)


def _read_conversion(content: Any, where: str, file: Path, *, converted: bool) -> ConvertArguments | None:
    """Return the conversion, whose sources must exist until the dataset does."""
    if content is None:
        return None
    f = Fields(content, f"{where}: convert")
    name, sources, options = f.text("name"), f.texts("sources"), f.texts("options")
    f.check_all_taken()
    if not sources:
        raise ValueError(f"{f.where} has no sources; expected the folders or archives of the release.")
    paths = [file.parent / text for text in sources]
    return ConvertArguments(
        name, tuple(str(path if converted else check_exists(path, f.where)) for path in paths), options
    )


def _read_test(content: Any, where: str, file: Path, raw: Path) -> TestSet:
    """Return a test set; its folders are of the raw dataset (imagesTs), or paths beside the study file."""
    f = Fields(content, f"{where}: test")
    name = check_name(f.text("name", "test"), f.where)
    images, labels = f.text("images", "imagesTs"), f.text("labels", None)
    parts = f.number("parts", 1, least=1)
    f.check_all_taken()

    def find(text: str) -> Path:
        return raw / text if Path(text).name == text else check_exists(file.parent / text, f.where)

    return TestSet(name, find(images), find(labels) if labels else None, parts)


def _read_methods(
    top: Fields, plans: dict[str, Plans], configurations: tuple[str, ...]
) -> tuple[Method, ...]:
    """Return `methods`, and each of `trainers` with each of the plans that no other plans are made from."""
    entries = top.list("methods", [])
    bases = {each.source for each in plans.values() if each.template}
    default_plans = [name for name in plans if name not in bases]
    methods = [
        Method(trainer, name, configuration)
        for trainer in top.texts("trainers")
        for name in default_plans
        for configuration in configurations
    ]
    for i, entry in enumerate(entries):
        f = Fields({"trainer": entry} if isinstance(entry, str) else entry, f"{top.where}: method {i + 1}")
        trainer, chosen = f.text("trainer"), f.texts("plans", default_plans)
        of_method = f.texts("configurations", configurations)
        f.check_all_taken()
        methods += [Method(trainer, name, configuration) for name in chosen for configuration in of_method]
    _check_methods(methods, plans, top.where)
    return tuple(methods)


def _check_methods(methods: list[Method], plans: dict[str, Plans], where: str) -> None:
    if not methods:
        raise ValueError(f"{where} trains nothing; expected trainers, or methods.")
    for method in methods:
        if methods.count(method) > 1:
            raise ValueError(f"{where}: {method} is listed twice.")
        if method.plans not in plans:
            raise ValueError(f"{where}: {method.trainer} has plans {method.plans}, which are not among: "
                             f"{', '.join(plans)}.")  # fmt: skip
        for part in (method.trainer, method.plans, method.configuration):
            if "__" in part or not NAME.fullmatch(part):
                raise ValueError(f"{where}: {part!r} cannot be a part of a folder's name of nnU-Net's.")


def _check_cascades(methods: tuple[Method, ...], folds: tuple[str, ...], where: str) -> None:
    """Raise ValueError for a cascade without all five folds of the low resolution that it is trained on."""
    for method in methods:
        lowres = Method(method.trainer, method.plans, LOWRES)
        if method.configuration == CASCADE and (lowres not in methods or set(folds) != set(FOLDS)):
            raise ValueError(f"{where}: {method} needs {lowres} in the same study, and the folds 0 to 4.")


def _read_folds(top: Fields) -> tuple[str, ...]:
    folds = top.texts("folds", FOLDS)
    if (
        not folds
        or len(set(folds)) < len(folds)
        or not all(fold == "all" or fold.isdecimal() for fold in folds)
    ):
        raise ValueError(f"{top.where}: folds are {', '.join(folds)}; expected numbers, each once, or all.")
    return folds


def _read_seeds(top: Fields) -> tuple[int | None, ...]:
    seeds = top.texts("seeds")
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{top.where}: seeds are {', '.join(seeds)}; expected whole numbers, each once.")
    return tuple(int(seed) for seed in seeds) or (None,)


def _trainer_folder(path: Path, where: str) -> Path:
    folder = check_exists(path, where)
    if os.pathsep in str(folder):
        raise ValueError(
            f"{where}: trainers_from has {folder}, and nnU-Net takes {os.pathsep} for the end of a folder; "
            "rename it."
        )
    return folder
