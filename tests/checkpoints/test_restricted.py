"""The restricted loader: what it gives back, and that nothing else happens."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_mamba.checkpoints.restricted import Stub, load_restricted

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
        "curve": np.arange(4.0),
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
    assert np.array_equal(loaded["curve"], content["curve"])
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
    with pytest.raises(ValueError, match=r"page.html is no file of weights that torch.save wrote"):
        load_restricted(text)
    cut = save({"weight": torch.randn(1000)}, tmp_path / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(ValueError, match="no file of weights"):
        load_restricted(cut)
    script = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(script))
    with pytest.raises(ValueError, match="TorchScript archive, which holds code"):
        load_restricted(script)
