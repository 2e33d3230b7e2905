"""Memory that is allocated at any moment of a run with fake tensors, by kind, and its peak.

Tensors are counted by storage, from the operator that returns it until autograd and Python have released it.
So tensors that autograd keeps, views, and work in place count as in a real run, without its memory.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Observer = Callable[[Any, tuple[Any, ...], Any], int]
# Kinds of memory: storages that existed before the mode was entered, from their first use on; those that are
# allocated in no context of `allocate_as`; what operators take beside their tensors.
BEFORE, TRANSIENT, WORKSPACE = "before", "transient", "workspace"
ADD = torch.ops.aten.add.Tensor


class LiveMemory(TorchDispatchMode):
    """Dispatch mode that counts live bytes by kind; `peak` holds those of the moment with most.

    Args:
        observe: (operator, arguments, result) -> bytes of workspace that the operator takes while it runs.
    """

    def __init__(self, observe: Observer = lambda *_: 0):
        super().__init__()
        self.observe = observe
        self.kind = TRANSIENT
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._storages: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._in_backward = False

    @contextmanager
    def allocate_as(self, kind: str, *, backward: bool = False) -> Iterator[None]:
        """Count storages that are allocated within the context as this kind."""
        before = self.kind, self._in_backward
        self.kind, self._in_backward = kind, backward
        try:
            yield
        finally:
            self.kind, self._in_backward = before

    def relabel(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count the storages of these tensors, known or new, as another kind."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._untrack(storage._cdata)
            self._track(storage, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors(args):
            self._track(tensor.untyped_storage(), BEFORE)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._track(tensor.untyped_storage(), self.kind)
        workspace = self.observe(func, args, result)
        # autograd adds gradients in place, which no dispatch mode sees
        if not (self._in_backward and func is ADD):
            self._update_peak(workspace)
        return result

    def _update_peak(self, workspace: int) -> None:
        if self.live.total() + workspace > self.peak.total():
            self.peak = self.live + Counter({WORKSPACE: workspace})

    def _track(self, storage: Any, kind: str) -> None:
        """Count a storage if it is new."""
        key = storage._cdata
        if key not in self._storages:
            size = storage.nbytes()
            self._storages[key] = (weakref.ref(storage, partial(self._on_freed, key)), kind, size)
            self.live[kind] += size

    def _on_freed(self, key: int, reference: Any) -> None:
        if key in self._storages and self._storages[key][0] is reference:
            self._untrack(key)

    def _untrack(self, key: int) -> None:
        if key in self._storages:
            _, kind, size = self._storages.pop(key)
            self.live[kind] -= size


def _tensors(nest: Any) -> list[Tensor]:
    """Return all tensors in nested lists and tuples."""
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]
