"""Fields of a study file: its mappings read key by key, with errors that name the place."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nnunet_mamba.io.messages import describe_value

MISSING: Any = object()
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Fields:
    """A mapping within a study file. Each key is taken once; `check_all_taken` refuses the others."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{where} is {describe_value(content)}; expected keys and values.")
        self.content = dict(content)
        self.where = where
        self.known: list[str] = []

    def take(self, key: str, kinds: tuple[type, ...], default: Any = MISSING, *, what: str) -> Any:
        """Return the value of `key`, of one of these types; `what` names them in messages."""
        self.known.append(key)
        if key not in self.content:
            if default is MISSING:
                raise ValueError(f"{self.where} lacks {key!r}; expected {what}.")
            return default
        value = self.content.pop(key)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{self.where}: {key} is {describe_value(value)}; expected {what}.")
        return value

    def text(self, key: str, default: Any = MISSING) -> Any:
        """Return a text, with environment variables filled in."""
        value = self.take(key, (str, int), default, what="a word or a path")
        return value if value is default else expand_variables(str(value), f"{self.where}: {key}")

    def number(self, key: str, default: Any = MISSING, *, least: int = 0) -> Any:
        value = self.take(key, (int,), default, what=f"a whole number from {least} on")
        if value is not default and value < least:
            raise ValueError(f"{self.where}: {key} is {value}; expected a whole number from {least} on.")
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        return bool(self.take(key, (bool,), default, what="true or false"))

    def texts(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a list of words; a single word counts as a list of one."""
        value = self.take(key, (str, int, list), list(default), what="a word or a list of words")
        values = value if isinstance(value, list) else [value]
        for one in values:
            if not isinstance(one, (str, int, float)) or isinstance(one, bool):
                raise ValueError(f"{self.where}: {key} holds {describe_value(one)}; expected words.")
        return tuple(expand_variables(str(one), f"{self.where}: {key}") for one in values)

    def list(self, key: str, default: Any = MISSING) -> list[Any]:
        return list(self.take(key, (list,), default, what="a list"))

    def mapping(self, key: str, default: Any = MISSING) -> Any:
        return self.take(key, (dict,), default, what="keys and values")

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = str(self.text(key, default))
        if value not in choices:
            raise ValueError(f"{self.where}: {key} is {value!r}; expected {' or '.join(choices)}.")
        return value

    def check_all_taken(self) -> None:
        """Raise ValueError for a key that nobody took."""
        for key in self.content:
            near = get_close_matches(str(key), self.known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(self.known)}."
            raise ValueError(f"{self.where} has a key {key!r} that is unknown here; {hint}")


def expand_variables(text: str, where: str) -> str:
    """Return the text with variables ($NAME, ${NAME}) and ~ replaced."""
    try:
        full = os.path.expandvars(str(Path(text).expanduser()) if text.startswith("~") else text)
    except RuntimeError as error:
        raise ValueError(f"{where}: {text} is the folder of no user here; write the path itself.") from error
    if CONTROL.search(full):
        raise ValueError(f"{where} is {describe_value(full)}; expected one line, without control characters.")
    if unset := re.search(r"\$\{?(\w+)", full):
        raise ValueError(f"{where}: the variable {unset[1]} is not set; export it, or write the path itself.")
    return full


def check_exists(path: Path, where: str) -> Path:
    """Return the absolute path; ValueError if it does not exist."""
    if not path.exists():
        raise ValueError(f"{where}: {path} does not exist.")
    return path.resolve()


def check_name(name: str, where: str) -> str:
    """Return the name; ValueError unless it is fit for names of files and jobs."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{where} is {name!r}; expected letters, digits, _ . + and -.")
    return name
