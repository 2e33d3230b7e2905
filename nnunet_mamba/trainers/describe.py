"""What a trainer trains, as JSON: two trainers of equal description give equal trainings.

Trainers of this package are data, and described by their values; comments and the code of the package do not
count. Classes of others are described by their source. `python -m nnunet_mamba.trainers.describe NAME...`
looks names up as nnU-Net does, and prints {name: description or {"error": why there is none}}.
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
from nnunet_mamba.nnunet.version import nnunet_version
from nnunet_mamba.plans import load_template
from nnunet_mamba.trainers.base import MambaTrainer
from nnunet_mamba.trainers.baselines import BaselineTrainer
from nnunet_mamba.trainers.guarded_trainer import GuardedTrainer

EXTERNAL = "nnUNet_extTrainer"  # nnU-Net's variable
DECIDING = ("recipe", "settings", "n_supervised_scales", "network_name", "overrides", "no_decay_ssm")


def describe(trainer: type[nnUNetTrainer]) -> dict[str, Any]:
    """All that decides what `trainer` trains, of a kind that JSON keeps. ValueError if its source is lost."""
    classes = trainer.__mro__[: trainer.__mro__.index(nnUNetTrainer)]
    foreign = [one for one in classes if one.__module__.split(".")[0] != "nnunet_mamba"]
    content = {
        "trainer": _name(trainer),
        "nnunetv2": nnunet_version(),
        "source": {_name(one): hashlib.sha256(_source(one).encode()).hexdigest() for one in foreign},
    }
    return {**content, **_values(trainer)} if issubclass(trainer, GuardedTrainer) else content


def _values(trainer: type[GuardedTrainer]) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(trainer, name) for name in DECIDING if hasattr(trainer, name)}
    values["network"] = None
    if issubclass(trainer, MambaTrainer):
        values["network"] = get_config(trainer.network_name).with_overrides(**trainer.overrides)
    elif issubclass(trainer, BaselineTrainer):
        values["network"] = BASELINES[trainer.network_name]
    template = getattr(trainer, "plans_template", None)
    if template is not None:
        loaded = load_template(template)
        values["plans_template"] = {"configurations": loaded.configurations, "budget": loaded.budget}
    return {name: plain(value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """`value` in lists, dictionaries, numbers and words; callables by name, a lambda by its source."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        content = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"class": _name(type(value)), **content}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, partial):
        return {"call": plain(value.func), "args": plain(value.args), "keywords": plain(value.keywords)}
    if callable(value) and hasattr(value, "__qualname__"):
        return _callable(value)
    raise ValueError(
        f"A trainer's {value!r} cannot be described; expected numbers, words, lists, dictionaries, "
        "dataclasses and named functions."
    )


def _callable(value: Callable[..., Any]) -> str:
    name = _name(value)
    return f"{name}: {inspect.getsource(value).strip()}" if value.__name__ == "<lambda>" else name


def _name(of: Any) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def _source(of: type) -> str:
    """The text of a class, or of its whole file where no class statement makes it."""
    text = _file(of).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node = None
    for name in of.__qualname__.split("."):
        node = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        body = node.body if node else []
    return (ast.get_source_segment(text, node) if node else None) or text


def _file(of: type) -> Path:
    """Where a class is written, also if nnU-Net's search has forgotten its module, as it does outside of
    nnunetv2."""
    known = getattr(sys.modules.get(of.__module__), "__file__", None)
    module = Path(*of.__module__.split("."))
    folders = [Path(folder) for folder in os.environ.get(EXTERNAL, "").split(os.pathsep) if folder]
    candidates = [folder / end for folder in folders for end in (f"{module}.py", module / "__init__.py")]
    for file in (*([Path(known)] if known else []), *candidates):
        if file.is_file():
            return file
    raise ValueError(f"The source of {_name(of)} is not found; expected {module}.py in {EXTERNAL}.")


def describe_named(names: list[str]) -> dict[str, Any]:
    """Each name's description, or the error that nnU-Net would meet."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

    found = {}
    for name in names:
        try:
            found[name] = describe(find(name))
        except Exception as error:  # of any file that the search imports
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    return found


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # nnU-Net's search tells of its progress
        descriptions = describe_named(sys.argv[1:])
    sys.stdout.write(json.dumps(descriptions, sort_keys=True) + "\n")
