"""nnU-Net's pools of processes, for tests without processes: the same calls, here and now."""

from itertools import starmap
from types import SimpleNamespace


class Pool:
    def __init__(self, *_: object, **__: object) -> None:
        self._pool: list[object] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def starmap(self, function, arguments, *_: object) -> list:
        return list(starmap(function, arguments))

    def starmap_async(self, function, arguments) -> SimpleNamespace:
        results = self.starmap(function, arguments)
        return SimpleNamespace(get=lambda: results, ready=lambda: True)


def without_processes(monkeypatch) -> None:
    """Every pool that is made from now on in this test is a `Pool`."""
    import multiprocessing

    context = SimpleNamespace(Pool=Pool, Manager=multiprocessing.Manager)
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: context)
