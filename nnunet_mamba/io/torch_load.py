"""Loading of torch files from others without running code of theirs.

A torch file is a pickle, and a pickle may name any function of any module to be called on loading. Here only
what rebuilds tensors, numpy's numbers and plain containers is resolved; every other name becomes an inert
`Stub`, which takes whatever it is called or filled with and does nothing. A pickle cannot change what it may
call (`_Call`), and numpy's own functions for rebuilding arrays, which trust a file with the memory layout,
are replaced. TorchScript and tar archives are refused before torch reads them: the first hold code, unpacking
the second can change files elsewhere.
"""

from __future__ import annotations

import codecs
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch


class Stub(dict):
    """Placeholder for an object of a class that is not loaded."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Call:
    """Function that a file may call, and not change: a pickle can set attributes of what it names."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("It sets attributes of a function.")


class _Dtype:
    """numpy's dtype for plain numbers; one with objects in it would make any bytes a pointer."""

    def __init__(self, code: str, *_: Any):
        self._code, self._byte_order = code, "="

    def __setstate__(self, state: Any) -> None:
        self._byte_order = state[1]

    def read(self, raw: bytes) -> np.ndarray | None:
        """Return the numbers in `raw`, or None if they are something else."""
        code = f"{self._byte_order}{self._code}"
        return np.frombuffer(raw, code) if re.fullmatch(r"[<>=|][biufc]\d{1,2}", code) else None


class _Array(np.ndarray):
    """Array of numbers; empty if it should hold anything else."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state  # numpy's, with the version first
        if (numbers := dtype.read(raw)) is not None:
            super().__setstate__(numbers.reshape(shape, order="F" if fortran else "C").__reduce__()[2])


def _scalar(dtype: _Dtype, raw: bytes) -> Any:
    numbers = dtype.read(raw)
    return Stub() if numbers is None else numbers[0]


def _reconstruct(*_: Any) -> _Array:
    return _Array(0)  # filled by its __setstate__


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Encode text as numpy's values need it in old protocols; other codecs could do more than encode."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"It asks for the codec {encoding!r}.")
    return codecs.latin_1_encode(text)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _Call(_encode),
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.multiarray", name): _Call(function)
        for core in ("core", "_core")
        for name, function in (("scalar", _scalar), ("_reconstruct", _reconstruct))
    },
    **{
        ("torch._utils", name): _Call(getattr(torch._utils, name))
        for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    },
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    **{
        ("torch", str(dtype).removeprefix("torch.")): dtype
        for dtype in vars(torch).values()
        if isinstance(dtype, torch.dtype)
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, list, dict, tuple, int, float, complex, bool)
    },
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that resolves what `_ALLOWED` holds, and makes a `Stub` of every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return type(name.rsplit(".", 1)[-1], (Stub,), {"__module__": module})


def _load(file: BinaryIO, **options: Any) -> Any:
    return RestrictedUnpickler(file, **options).load()


# what torch.load takes for a module: it subclasses Unpickler, and for old files calls load
_PICKLE = SimpleNamespace(__name__="restricted", Unpickler=RestrictedUnpickler, load=_load)


def load_restricted(path: str | Path) -> Any:
    """Load the content of a file that torch.save wrote, on the CPU; objects of unknown classes are `Stub`s.

    Raises ValueError for other files, for TorchScript and tar archives, and for pickles that are broken or
    ask for what weights do not need.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected weights that torch.save wrote (.pth or .pt).")
    try:
        _refuse_other_archives(path)
        return torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except Exception as error:  # a pickle can fail in any way
        raise ValueError(f"{path} is not a file of weights that torch.save wrote: {error}") from error


def _refuse_other_archives(path: Path) -> None:
    """Raise ValueError for TorchScript and tar archives.

    torch.load tells them apart alike: zip by its first bytes, TorchScript by a record, tar by trying.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:  # with torch's reader, since others may find another table of contents in the same file
        if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise ValueError("It is a TorchScript archive, which holds code; save its state_dict.")
    elif tarfile.is_tarfile(path):
        raise ValueError("It is a tar archive, as torch wrote them before 2017; save it with a newer torch.")
