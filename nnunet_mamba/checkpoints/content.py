"""The state dict within a file, which may hold several: wrapped, averaged, or bare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nnunet_mamba.networks.finite import check_finite
from nnunet_mamba.networks.unet import is_counter

# what training scripts call a state dict that they save beside other things; the first one there counts
WRAPPERS = (
    *("model", "model_state_dict", "model_state", "net", "network", "module", "weights"),
    *("model_ema", "state_dict", "network_weights", "ema", "ema_state_dict", "state_dict_ema"),
)


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
    there, or else the content itself. What a counter of operations has added is left out.

    Raises ValueError, with the file's path, where there are none, and where some are not finite.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of weights.")
    there = [key for key, value in content.items() if _is_state_dict(value)]
    if entry != "auto" and entry not in there:
        raise ValueError(f"{path} has no {entry!r}; it has {', '.join(there) or 'weights alone'}.")
    chosen = next((name for name in WRAPPERS if name in there), None) if entry == "auto" else entry
    tensors = _weights_of(content if chosen is None else content[chosen])
    strays = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if strays or not tensors:
        others = ", ".join(map(str, strays[:3])) or "nothing"
        choice = f" Take one of {', '.join(there)} by import-checkpoint's --weights." if there else ""
        raise ValueError(f"{path} holds no state dict: expected tensors, found {others}.{choice}")
    found = Weights(tensors, chosen, tuple(name for name in there if name != chosen))
    check_finite(tensors, f"{path}, {found}", "Such weights cannot be used; take another checkpoint.")
    return found


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    weights = _weights_of(value).values()
    return bool(weights) and all(isinstance(one, Tensor) for one in weights)


def _weights_of(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The content without counters of operations, and numbers and texts that were saved beside weights."""
    return {
        key: value
        for key, value in content.items()
        if not (is_counter(str(key)) or value is None or isinstance(value, int | float | str))
    }
