"""The restricted loader: what it gives back, and that nothing else happens."""

import io
import os
import pickle
import struct
import tarfile
import tempfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_mamba.io.torch_load import _ALLOWED, RestrictedUnpickler, Stub, load_restricted

ZIP_OR_LEGACY = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])


class Attack:
    """A pickle that calls `function(*args)` when loaded."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Config(dict):
    """Like yacs' CfgNode: a dict with attributes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__["frozen"] = True


def save(content, path, as_zip=True):
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    return path


def attacks(victim: Path):
    touch = f"open({str(victim)!r}, 'w').close()"
    return {
        "system": Attack(os.system, f"touch {victim}"),
        "eval": Attack(eval, touch),
        "exec": Attack(exec, touch),
        "open": Attack(open, str(victim), "w"),
        "mkdir": Attack(os.mkdir, str(victim)),
        "torch.load": Attack(torch.load, str(victim)),
        "pickle": Attack(pickle.loads, pickle.dumps(Attack(os.system, f"touch {victim}"))),
    }


@ZIP_OR_LEGACY
@pytest.mark.parametrize("kind", attacks(Path("x")))
@pytest.mark.parametrize("place", ["whole", "in the state dict", "as a key's value's state"])
def test_no_code_of_the_file_runs(tmp_path, as_zip, kind, place):
    victim = tmp_path / "victim"
    attack = attacks(victim)[kind]
    content = {
        "whole": attack,
        "in the state dict": {"model": OrderedDict(weight=torch.ones(2), bias=attack)},
        "as a key's value's state": {"model": {"weight": torch.ones(2)}, "config": Config({"a": [attack]})},
    }[place]
    path = save(content, tmp_path / "file.pth", as_zip)
    loaded = load_restricted(path)
    assert not victim.exists()
    if place != "whole":
        assert torch.equal(loaded["model"]["weight"], torch.ones(2))


def test_the_attacks_are_real(tmp_path):
    """The same files, loaded as torch would."""
    victim = tmp_path / "victim"
    torch.load(save(attacks(victim)["system"], tmp_path / "file.pth"), weights_only=False)
    assert victim.exists()


def opcodes(value) -> bytes:
    """The pickle of a value without its beginning and end, to put into another pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]


def legacy_file(body: bytes, path: Path) -> Path:
    """A file in torch's old format that holds a pickle written by hand."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    parts = [*(pickle.dumps(part, protocol=2) for part in head), body, pickle.dumps([], protocol=2)]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    "name", sorted({name for name in _ALLOWED if "." in name[0] or name[0] == "_codecs"})
)
@pytest.mark.parametrize("state", [{"planted": 1}, (None, {"planted": 1})], ids=["dict", "slots"])
def test_a_file_cannot_change_what_it_may_call(name, state):
    """A pickle may set attributes of whatever it names, a function included."""
    body = b"\x80\x02c%s\n%s\n" % (name[0].encode(), name[1].encode()) + opcodes(state) + b"b."
    with pytest.raises(pickle.UnpicklingError, match="sets attributes of a function"):
        RestrictedUnpickler(io.BytesIO(body)).load()
    assert not hasattr(_ALLOWED[name], "planted")


@pytest.mark.parametrize("name", _ALLOWED)
def test_a_file_cannot_change_the_classes_it_may_name(name):
    body = (
        b"\x80\x02c%s\n%s\n" % (name[0].encode(), name[1].encode()) + opcodes((None, {"planted": 1})) + b"b."
    )
    with suppress(Exception):
        RestrictedUnpickler(io.BytesIO(body)).load()
    assert not hasattr(_ALLOWED[name], "planted")


def test_no_patch_is_written_for_changed_source(tmp_path):
    """torch's old format holds source of classes; where it has changed and the class has `dump_patches`,
    torch.load writes a file of the class's name."""
    victim, function = tmp_path / "victim", b"c_codecs\nencode\n"
    states = opcodes({"dump_patches": True}) + opcodes({"__name__": str(victim)}) + b"\x86b"
    module = b"(" + opcodes("module") + function + opcodes("source.py") + opcodes("changed\n") + b"tQ."
    path = legacy_file(b"\x80\x02" + function + states + b"0" + module, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="sets attributes of a function"):
        load_restricted(path)
    assert [file.name for file in tmp_path.iterdir()] == ["file.pth"]


@pytest.mark.parametrize("kind", ["scalar", "array"])
def test_bytes_of_the_file_never_become_a_pointer(tmp_path, kind):
    """numpy's dtype of objects, told by the file that it holds none, would follow any address."""
    codec = b"c_codecs\nencode\n"
    dtype = b"cnumpy\ndtype\n" + opcodes(("O8", False, True)) + b"R"
    dtype += opcodes((3, "|", None, None, None, 8, 8, 0)) + b"b"
    raw = codec + opcodes(("A" * 8, "latin1")) + b"R"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + opcodes((0,)) + opcodes("b") + b"\x87R"
    )
    body = {
        "scalar": b"cnumpy.core.multiarray\nscalar\n" + dtype + raw + b"\x86R",
        "array": array + b"(" + opcodes(1) + opcodes((1,)) + dtype + b"\x89" + raw + b"tb",
    }[kind]
    loaded = load_restricted(legacy_file(b"\x80\x02" + body + b".", tmp_path / "file.pth"))
    assert isinstance(loaded, Stub) if kind == "scalar" else loaded.size == 0


def test_numpy_values_that_are_no_numbers_are_inert(tmp_path):
    words = np.array(["a", "b"]), np.array([object], dtype=object), np.str_("a")
    loaded = load_restricted(save({"weight": torch.ones(1), "words": words}, tmp_path / "file.pth"))
    assert [np.size(word) for word in loaded["words"][:2]] == [0, 0]
    assert torch.equal(loaded["weight"], torch.ones(1))


def test_tar_archives_are_refused_unopened(tmp_path):
    """torch would unpack them, and a link in one gives its mode to the file that it leads to."""
    private = tmp_path / "private"
    private.write_text("")
    private.chmod(0o600)
    link = tarfile.TarInfo("storages")
    from_unpacked = Path("..") / os.path.relpath(private, tempfile.gettempdir())
    link.type, link.linkname, link.mode = tarfile.LNKTYPE, str(from_unpacked), 0o777
    with tarfile.open(tmp_path / "file.pth", "w") as archive:
        archive.addfile(link)
    with pytest.raises(ValueError, match="tar archive"):
        load_restricted(tmp_path / "file.pth")
    assert private.stat().st_mode & 0o777 == 0o600


def test_torchscript_is_refused_behind_a_second_table_of_contents(tmp_path):
    """Python's reader looks for the table at the file's end, torch's at the place that the file states."""
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    content = path.read_bytes()
    end64 = content.rfind(b"PK\x06\x06")
    size, start = struct.unpack("<QQ", content[end64 + 40 : end64 + 56])
    (entries,) = struct.unpack("<Q", content[end64 + 32 : end64 + 40])
    table = content[start : start + size]
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, entries, entries, size, start, 0)
    path.write_bytes(content[:start] + table + table.replace(b"constants.pkl", b"constants.pxl") + end)
    with pytest.raises(ValueError, match="TorchScript archive, which holds code"):
        load_restricted(path)


@ZIP_OR_LEGACY
def test_weights_come_back_as_they_were(tmp_path, as_zip):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    shared = torch.randn(4, 5)
    content = {
        "network_weights": network.state_dict(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "halves": [torch.randn(2).half(), torch.randn(2).bfloat16(), torch.arange(3), torch.tensor(True)],
        "views": (shared[1:], shared.t()),
        "epoch": np.int64(7),
        "ema": np.float32(0.5),
        "flag": np.bool_(True),
        "curve": np.arange(4.0),
        "table": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "axes": (0, 1, 2),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "none": None,
        "set": {1, 2},
    }
    loaded = load_restricted(save(content, tmp_path / "file.pth", as_zip))
    assert loaded.keys() == content.keys()
    for key, value in content["network_weights"].items():
        assert torch.equal(loaded["network_weights"][key], value)
    network.load_state_dict(loaded["network_weights"])
    assert torch.equal(loaded["parameter"], content["parameter"])
    assert all(torch.equal(a, b) for a, b in zip(loaded["halves"], content["halves"], strict=True))
    assert [a.dtype for a in loaded["halves"]] == [b.dtype for b in content["halves"]]
    assert all(torch.equal(a, b) for a, b in zip(loaded["views"], content["views"], strict=True))
    assert (loaded["epoch"], loaded["ema"]) == (7, 0.5)
    assert loaded["flag"] and loaded["epoch"].dtype == np.int64 and loaded["ema"].dtype == np.float32
    for key in ("curve", "table"):
        assert np.array_equal(loaded[key], content[key])
        assert loaded[key].dtype == content[key].dtype.newbyteorder("=")
    assert loaded["network_weights"]._metadata == content["network_weights"]._metadata
    first, second = (view.untyped_storage().data_ptr() for view in loaded["views"])
    assert first == second
    for key in ("axes", "device", "dtype", "size", "none", "set"):
        assert loaded[key] == content[key]


@ZIP_OR_LEGACY
def test_objects_of_unknown_classes_are_inert(tmp_path, as_zip):
    content = {"model": {"weight": torch.ones(1)}, "config": Config({"base": Config({"lr": 0.1})})}
    loaded = load_restricted(save(content, tmp_path / "file.pth", as_zip))
    assert isinstance(loaded["config"], Stub)
    assert type(loaded["config"]).__name__ == "Config"
    assert torch.equal(loaded["model"]["weight"], torch.ones(1))


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no file; expected weights"):
        load_restricted(tmp_path / "nothing.pth")
    text = tmp_path / "page.html"
    text.write_text("<html>404: no such release</html>")
    with pytest.raises(ValueError, match=r"page.html is not a file of weights that torch.save wrote"):
        load_restricted(text)
    cut = save({"weight": torch.randn(1000)}, tmp_path / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a file of weights"):
        load_restricted(cut)
    script = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(script))
    with pytest.raises(ValueError, match="TorchScript archive, which holds code"):
        load_restricted(script)
