"""Reading torch files of strangers without running code of theirs.

A torch file is a pickle, and a pickle may name any function of any module to be called on loading. Here only
what rebuilds tensors, numpy values and plain containers is what it says; every other name becomes an inert
`Stub`, that takes whatever it is called or filled with and does nothing. No module is imported for a file.
"""

from __future__ import annotations

import codecs
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch


class Stub(dict):
    """Stands for an object of a class that is not loaded."""

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


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What numpy's values come with in old protocols; other codecs could do more than encode."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"A file of weights asks for the codec {encoding!r}; refused.")
    return codecs.latin_1_encode(text)[0]


_SCALAR = np.float32(0).__reduce__()[0]
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("scalar", _SCALAR), ("_reconstruct", _RECONSTRUCT))
    },
    **{
        ("torch._utils", name): getattr(torch._utils, name)
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
        for kind in (
            set,
            frozenset,
            list,
            dict,
            tuple,
            int,
            float,
            complex,
            bool,
            str,
            bytes,
            bytearray,
            slice,
        )
    },
}


class RestrictedUnpickler(pickle.Unpickler):
    """Finds what `_ALLOWED` holds, and a `Stub` of that name for all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return type(name.rsplit(".", 1)[-1], (Stub,), {"__module__": module})


def _load(file: BinaryIO, **options: Any) -> Any:
    return RestrictedUnpickler(file, **options).load()


# what torch.load takes for a module: it subclasses Unpickler, and for old files calls load
_PICKLE = SimpleNamespace(__name__="restricted", Unpickler=RestrictedUnpickler, load=_load)


def load_restricted(path: str | Path) -> Any:
    """The content of a file that torch.save wrote, on the CPU; objects of unknown classes are `Stub`s.

    Raises ValueError for what is no such file, for TorchScript archives, which hold code, and for
    pickles that are broken.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; expected weights that torch.save wrote (.pth or .pt).")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(f"{path} is a TorchScript archive, which holds code; save its state_dict.")
    try:
        return torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is no file of weights that torch.save wrote: {error}") from error
