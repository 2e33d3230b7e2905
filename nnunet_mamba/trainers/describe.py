"""Descriptions of trainers as JSON: two trainers with equal descriptions give equal trainings.

Trainers of this package are data, and described by their values; comments and the code of the package do not
count. Classes of others are described by their source. `python -m nnunet_mamba.trainers.describe NAME...`
finds trainers as nnU-Net does, and prints {name: description or {"error": the reason why there is none}}.
"""

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mamba.networks.baselines import BASELINES
from nnunet_mamba.networks.family import get_config
from nnunet_mamba.nnunet.commands import EXTERNAL
from nnunet_mamba.nnunet.version import get_nnunet_version
from nnunet_mamba.plans import load_template
from nnunet_mamba.trainers.base import GuardedTrainer
from nnunet_mamba.trainers.baselines import BaselineTrainer
from nnunet_mamba.trainers.mamba import MambaTrainer

DESCRIBED = ("recipe", "settings", "n_supervised_scales", "network_name", "overrides", "no_decay_ssm")


def describe(trainer: type[nnUNetTrainer]) -> dict[str, Any]:
    """Return all that determines a training by `trainer`, in types that JSON has.

    Raises ValueError if the source of a class is not found.
    """
    classes = trainer.__mro__[: trainer.__mro__.index(nnUNetTrainer)]
    others = [one for one in classes if one.__module__.split(".")[0] != "nnunet_mamba"]
    content = {
        "trainer": _name(trainer),
        "nnunetv2": get_nnunet_version(),
        "source": {_name(one): hashlib.sha256(_source(one).encode()).hexdigest() for one in others},
    }
    return {**content, **_describe_values(trainer)} if issubclass(trainer, GuardedTrainer) else content


def _describe_values(trainer: type[GuardedTrainer]) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(trainer, name) for name in DESCRIBED if hasattr(trainer, name)}
    values["network"] = None
    if issubclass(trainer, MambaTrainer):
        values["network"] = get_config(trainer.network_name).with_overrides(**trainer.overrides)
    elif issubclass(trainer, BaselineTrainer):
        values["network"] = BASELINES[trainer.network_name]
    template = getattr(trainer, "plans_template", None)
    if template is not None:
        loaded = load_template(template)
        values["plans_template"] = {"configurations": loaded.configurations, "budget": loaded.budget}
    return {name: to_plain(value) for name, value in values.items()}


def to_plain(value: Any) -> Any:
    """Return `value` as lists, dictionaries, numbers and strings; callables by name, a lambda by its
    source."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
        return {"class": _name(type(value)), **content}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((to_plain(item) for item in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, partial):
        return {
            "call": to_plain(value.func),
            "args": to_plain(value.args),
            "keywords": to_plain(value.keywords),
        }
    if callable(value) and hasattr(value, "__qualname__"):
        return _describe_callable(value)
    raise ValueError(
        f"A trainer's {value!r} cannot be described; expected numbers, strings, lists, dictionaries, "
        "dataclasses and named functions."
    )


def _describe_callable(value: Callable[..., Any]) -> str:
    name = _name(value)
    return f"{name}: {inspect.getsource(value).strip()}" if value.__name__ == "<lambda>" else name


def _name(thing: Any) -> str:
    """Return the dotted name; of this package without the module, which may move."""
    ours = thing.__module__.split(".")[0] == "nnunet_mamba"
    return thing.__qualname__ if ours else f"{thing.__module__}.{thing.__qualname__}"


def _source(cls: type) -> str:
    """Return the source of a class, or of its whole file if it was not made by a class statement."""
    text = _find_file(cls).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node = None
    for name in cls.__qualname__.split("."):
        node = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        body = node.body if node else []
    return (ast.get_source_segment(text, node) if node else None) or text


def _find_file(cls: type) -> Path:
    """Return the file of a class, also after nnU-Net's search has removed its module from sys.modules, as it
    does outside of nnunetv2."""
    known = getattr(sys.modules.get(cls.__module__), "__file__", None)
    module = Path(*cls.__module__.split("."))
    folders = [Path(folder) for folder in os.environ.get(EXTERNAL, "").split(os.pathsep) if folder]
    candidates = [folder / end for folder in folders for end in (f"{module}.py", module / "__init__.py")]
    for file in (*([Path(known)] if known else []), *candidates):
        if file.is_file():
            return file
    raise ValueError(f"The source of {_name(cls)} is not found; expected {module}.py in {EXTERNAL}.")


def describe_named(names: list[str]) -> dict[str, Any]:
    """Return the description of each name, or the error that nnU-Net would meet."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

    found = {}
    for name in names:
        try:
            found[name] = describe(find(name))
        except Exception as error:  # of any file that the search imports
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # nnU-Net's search prints its progress
        descriptions = describe_named(sys.argv[1:])
    sys.stdout.write(json.dumps(descriptions, sort_keys=True) + "\n")
