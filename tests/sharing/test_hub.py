"""Exports on the hub, which is a folder here: calls fit huggingface_hub's own signatures."""

import builtins
import fnmatch
import inspect
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from nnunet_mamba.sharing import hub

REAL = {
    name: inspect.signature(getattr(HfApi, name))
    for name in ("create_repo", "model_info", "upload_folder", "snapshot_download")
}


class FolderHub:
    """A hub in a folder: OWNER/NAME with files, `private` names."""

    def __init__(self, folder):
        self.folder, self.private = folder, set()

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if not (self.folder / repo_id).exists():
            (self.folder / repo_id).mkdir(parents=True)
            self.private |= {repo_id} if private else set()
        return f"https://hub/{repo_id}"

    def model_info(self, repo_id):
        return SimpleNamespace(private=repo_id in self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message, allow_patterns, delete_patterns):
        for file in (self.folder / repo_id).iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in delete_patterns):
                file.unlink()
        self._copy(folder_path, self.folder / repo_id, allow_patterns)

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None):
        if revision not in (None, "v1"):
            raise OSError(f"404: no revision {revision}")
        return str(self._copy(self.folder / repo_id, self.folder / "cache" / repo_id, allow_patterns))

    @staticmethod
    def _copy(source, target, patterns):
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns):
                shutil.copyfile(file, target / file.name)
        return target


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A FolderHub in the place of HfApi's functions."""
    found = FolderHub(tmp_path / "hub")
    for name, signature in REAL.items():

        def call(self, *args, _name=name, _signature=signature, **options):
            _signature.bind(self, *args, **options)  # TypeError for what the real one does not take
            return getattr(found, _name)(*args, **options)

        monkeypatch.setattr(HfApi, name, call)
    return found


def test_what_is_pushed_comes_back(exported, fake):
    assert hub.push_export(exported, "doe/model", private=False) == "https://hub/doe/model"
    pulled = hub.pull_export("doe/model", "v1")
    assert {f.name: f.read_bytes() for f in pulled.iterdir()} == {
        f.name: f.read_bytes() for f in exported.iterdir()
    }
    assert not fake.private


def test_files_of_an_earlier_export_go_and_those_of_others_stay(exported, fake):
    hub.push_export(exported, "doe/model", private=True)
    assert fake.private == {"doe/model"}
    for name in ("fold_4.safetensors", "fold_4.json", ".gitattributes"):
        (fake.folder / "doe/model" / name).write_text("")
    (exported / "notes.txt").write_text("of the machine")
    hub.push_export(exported, "doe/model", private=True)
    names = {file.name for file in (fake.folder / "doe/model").iterdir()}
    assert ".gitattributes" in names and not names & {"fold_4.safetensors", "fold_4.json", "notes.txt"}


def test_nothing_private_goes_to_a_public_repository(exported, fake):
    hub.push_export(exported, "doe/model", private=False)
    for file in (fake.folder / "doe/model").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"exists and is public; .* hf upload doe/model"):
        hub.push_export(exported, "doe/model", private=True)
    assert not [*(fake.folder / "doe/model").iterdir()]


def test_what_the_hub_says_is_passed_on(exported, fake, monkeypatch):
    with pytest.raises(ValueError, match="hf://doe/model at v9 could not be downloaded: 404: no revision v9"):
        hub.pull_export("doe/model", "v9")

    def refuse(self, *args, **options):
        raise RuntimeError("401: no token")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match="is complete, but could not be pushed to doe/model: 401: no token"):
        hub.push_export(exported, "doe/model", private=False)


@pytest.mark.parametrize("repo", ["model", "a/b/c", "../b", "a/..", "a b/c", "", "a/b\n", "ä/b"])
def test_repositories_are_owner_and_name(repo):
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        hub.check_repo(repo)
    assert hub.check_repo("Doe-1/model_2.v3") == "Doe-1/model_2.v3"


def test_without_the_extra_the_error_says_what_to_install(exported, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.split(".")[0] == "huggingface_hub":
            raise ImportError("No module named 'huggingface_hub'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: hub.pull_export("a/b"), lambda: hub.push_export(exported, "a/b", private=False)):
        with pytest.raises(ValueError, match=r"pip install 'nnunet_mamba\[hub\]'"):
            call()
