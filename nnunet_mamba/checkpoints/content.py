"""The state dict within a file, which may hold several: wrapped, averaged, or bare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

WRAPPERS = ("model", "model_ema", "state_dict", "network_weights")


class Weights(NamedTuple):
    """A state dict, the entry of the file that held it, and the entries passed over."""

    tensors: Mapping[str, Tensor]
    entry: str | None
    others: tuple[str, ...]

    def __str__(self) -> str:
        """'entry model (model_ema left aside)', for logs."""
        aside = f" ({', '.join(self.others)} left aside)" if self.others else ""
        return f"entry {self.entry}{aside}" if self.entry else "the whole file"


def weights_in(content: Any, path: str | Path, entry: str = "auto") -> Weights:
    """The weights in the content of a file, of the named entry; "auto": of the first of WRAPPERS that is
    there, or else the content itself. Raises ValueError, with the file's path, where there are none."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of weights.")
    there = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
    if entry != "auto" and entry not in there:
        raise ValueError(f"{path} has no {entry!r}; it has {', '.join(there) or 'weights alone'}.")
    chosen = entry if entry != "auto" else there[0] if there else None
    tensors = content if chosen is None else content[chosen]
    strays = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strays or not tensors:
        raise ValueError(
            f"{path}: {', '.join(map(str, strays[:3])) or 'nothing'} in it is no tensor of weights."
        )
    return Weights(tensors, chosen, tuple(name for name in there if name != chosen))
