"""Names of weights under rules of regular expressions. Values are never changed, only names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

Result = str | Callable[[re.Match[str]], str]
Rule = tuple[str, Result]


def rename(state_dict: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """The state dict with each key under the first rule that fits it; other keys stay."""
    compiled = [(re.compile(pattern), result) for pattern, result in rules]
    return {_renamed(key, compiled): value for key, value in state_dict.items()}


def _renamed(key: str, rules: Iterable[tuple[re.Pattern[str], Result]]) -> str:
    for pattern, result in rules:
        key, n_hits = pattern.subn(result, key)
        if n_hits:
            return key
    return key
