"""The bytes that are alive at any moment of a run with fake tensors: which, how many, and when most.

Tensors are counted by storage: born as the result of an operator, gone when autograd and Python have let go
of it. So what autograd keeps, views, and work in place count as they do in a real run, without the memory
and the time of one.
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

Observer = Callable[[Any, tuple[Any, ...], Any, int], int]
BEFORE = "before"  # the kind of what was there before the mode was entered, from its first use on
ADD = torch.ops.aten.add.Tensor


class LiveMemory(TorchDispatchMode):
    """Counts live bytes by kind while it is entered; `peak` is how many of each there were when most were.

    Args:
        observe: (operator, arguments, result, bytes born with it) -> bytes of scratch that the operator takes
            for itself while it runs.
    """

    def __init__(self, observe: Observer = lambda *_: 0):
        super().__init__()
        self.observe = observe
        self.kind = "transient"
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._storages: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._in_backward = False

    @contextmanager
    def born_as(self, kind: str, *, backward: bool = False) -> Iterator[None]:
        """Storages that are born inside are of this kind."""
        before = self.kind, self._in_backward
        self.kind, self._in_backward = kind, backward
        try:
            yield
        finally:
            self.kind, self._in_backward = before

    def rename(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Count these, known or new, as another kind."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._forget(storage._cdata)
            self._note(storage, kind)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors(args):
            self._note(tensor.untyped_storage(), BEFORE)
        result = func(*args, **(kwargs or {}))
        born = [self._note(tensor.untyped_storage(), self.kind) for tensor in _tensors(result)]
        scratch = self.observe(func, args, result, sum(born))
        # autograd adds gradients in place, where no mode looks on
        if not (self._in_backward and func is ADD):
            self._compare(scratch)
        return result

    def _compare(self, scratch: int) -> None:
        if self.live.total() + scratch > self.peak.total():
            self.peak = self.live + Counter({"scratch": scratch})

    def _note(self, storage: Any, kind: str) -> int:
        """Bytes of the storage if it is new."""
        key = storage._cdata
        if key in self._storages:
            return 0
        size: int = storage.nbytes()
        self._storages[key] = (weakref.ref(storage, partial(self._gone, key)), kind, size)
        self.live[kind] += size
        return size

    def _gone(self, key: int, reference: Any) -> None:
        if key in self._storages and self._storages[key][0] is reference:
            self._forget(key)

    def _forget(self, key: int) -> None:
        if key in self._storages:
            _, kind, size = self._storages.pop(key)
            self.live[kind] -= size


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]
