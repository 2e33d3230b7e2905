"""Errors of a study file in words: what pydantic found, with the place, and what was expected there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from nnunet_mamba.io.messages import describe_value, find_closest_names
from nnunet_mamba.study.sweep.schema import Section, StudyFile

Place = Sequence[str | int]  # ("datasets", 1, "test", 0, "parts")
EXPECTED = {  # by pydantic's kind of error
    "model_type": "keys and values",
    "dict_type": "keys and values",
    "list_type": "a list",
    "too_short": "at least one",
    "string_type": "a word, in quotes if need be",
    "bool_type": "true or false",
    "int_type": "a whole number from 1 on",
    "greater_than_equal": "a whole number from {ge} on",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
}


def describe_errors(found: ValidationError, file: str) -> str:
    """Return the errors, a line each, as in "study.yaml: dataset 2: test 1: parts is 'x'; expected ..."."""
    return "\n".join(_describe(error, file) for error in found.errors())


def _describe(error: Mapping[str, Any], file: str) -> str:
    kind, place, given, context = error["type"], error["loc"], error["input"], error.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        key = given if kind == "invalid_key" else place[-1]
        known = [field.alias or name for name, field in _find_section(place).model_fields.items()]
        near = find_closest_names(str(key), known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}."
        return f"{_name(place[:-1], file)} has a key {key!r} that is unknown here; {hint}"
    if kind == "missing":
        what = _find_section(place).model_fields[place[-1]].description
        return f"{_name(place[:-1], file)} lacks {place[-1]!r}: {what}."
    text = f"expected {EXPECTED[kind].format(**context)}." if kind in EXPECTED else str(context["error"])
    if place[-1:] == ("[key]",):
        return f"{_name(place[:-2], file)} has a key {given!r}; {text}"
    is_value = text.startswith("expected")
    return f"{_name(place, file)}{f' is {describe_value(given)}; ' if is_value else ': '}{text}"


def _name(place: Place, file: str) -> str:
    words = [file]
    for part in place:
        if isinstance(part, int):
            words[-1] = f"{words[-1].removesuffix('s')} {part + 1}"
        else:
            words.append(part)
    return ": ".join(words)


def _find_section(place: Place) -> type[Section]:
    """Return the model of the mapping that holds the last part of a place."""
    section: type[Section] = StudyFile
    for key in place[:-1]:
        if field := section.model_fields.get(str(key)):
            section = next(_find_models(field.annotation), section)
    return section


def _find_models(annotation: Any) -> Iterator[type[Section]]:
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _find_models(part)
