"""Kinds of values in a study file, with their checks and what editors are told of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core.core_schema import no_info_before_validator_function

from nnunet_mamba.study.sweep.study import CASCADE, LOWRES

BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # what is not one line of UTF-8
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Also:
    """Another way to write a value: one of these kinds, which `read` turns into the usual value.

    `schema` describes it; by default it is an item of the usual list.
    """

    kinds: type | tuple[type, ...]
    read: Callable[[Any], Any]
    schema: dict[str, Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return no_info_before_validator_function(self._read, handler(source))

    def _read(self, value: Any) -> Any:
        return self.read(value) if isinstance(value, self.kinds) and not isinstance(value, bool) else value

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        usual = handler(core)
        return {"anyOf": [usual, self.schema or usual["items"]]}


@dataclass(frozen=True, eq=False)
class Suggest:
    """Names that editors offer beside all others, which are checked when the study starts."""

    names: Iterable[str] | str  # a str says where they are: module:NAMES

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        names = self.names
        if isinstance(names, str):
            module, attribute = names.split(":")
            names = getattr(import_module(f"nnunet_mamba.{module}"), attribute)
        return {"anyOf": [{"enum": sorted(names)}, handler(core)]}


def expand_variables(text: str) -> str:
    """Return the text with variables ($NAME, ${NAME}) and a leading ~ replaced."""
    try:
        full = os.path.expandvars(str(Path(text).expanduser()) if text.startswith("~") else text)
    except RuntimeError as error:
        raise ValueError(f"{text} is the folder of no user here; write the path itself.") from error
    if BREAKS.search(full):
        raise ValueError("expected one line, without control characters.")
    if unset := re.search(r"\$\{?(\w+)", full):
        raise ValueError(f"the variable {unset[1]} is not set; export it, or write the path itself.")
    return full


def matches(pattern: str, expected: str) -> AfterValidator:
    """Return a check of texts; `expected` puts the pattern into words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}.")
        return text

    return AfterValidator(check)


def check_unique(values: list[T]) -> list[T]:
    if len(set(values)) < len(values):
        raise ValueError("expected each once.")
    return values


ALONE = Also((str, int, float), lambda item: [item])
Items = Annotated[list[T], ALONE]
SomeItems = Annotated[list[T], Field(min_length=1), ALONE]
Entries = Annotated[list[T], Also((str, int, dict), lambda entry: [entry])]
Unique = AfterValidator(check_unique)

Word = Annotated[str, Also(int, str, {"type": "integer"}), AfterValidator(expand_variables)]
NumberText = Annotated[Word, Also(float, str, {"type": "number"})]
Count = Annotated[int, Field(ge=1)]
Fold = Annotated[Word, matches("all|0|[1-9][0-9]*", "a number, or all"), Suggest(["all"])]
Seed = Annotated[Word, matches("0|[1-9][0-9]*", "a whole number from 0 on")]
Variable = Annotated[str, matches("[A-Za-z_][A-Za-z0-9_]*", "letters, digits and _")]
Name = Annotated[
    Word,
    matches("[A-Za-z0-9][A-Za-z0-9_.+-]*", "letters, digits, _ . + and -"),
    Field(json_schema_extra={"pattern": "^[A-Za-z0-9$][A-Za-z0-9_.+${}-]*$"}),  # it may hold a $VARIABLE
]
MethodPart = Annotated[Name, matches("(?!.*__).*", "no __, which separates trainer, plans and configuration")]
ConditionName = Annotated[
    str, matches("(?!.*__)[A-Za-z0-9][A-Za-z0-9_.+-]*", "letters, digits, _ . + and -, and no __")
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Configuration = Annotated[MethodPart, Suggest(["2d", "3d_fullres", LOWRES, CASCADE])]
Planner = Annotated[Word, Suggest([f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")])]
Network = Annotated[Word, Suggest("nnunet.catalogue:NETWORKS")]
Release = Annotated[Word, Suggest("study.datasets.specs:DATASETS")]
Metric = Annotated[Word, Suggest("study.evaluation:METRICS")]
Protocol = Annotated[Word, Suggest("study.evaluation:PROTOCOLS")]
Margin = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Device = Annotated[
    Literal["cuda", "cpu", "mps"], Also(str, expand_variables, {"type": "string", "pattern": r"^\$"})
]


def check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}.") from None
    return text


Pattern = Annotated[Word, AfterValidator(check_pattern)]
