"""Exports on the hub: huggingface_hub's own client, and a hub of a few lines on this machine."""

import builtins

import pytest
from hub_server import COMMIT, TOKEN, Model, serve_hub
from huggingface_hub import HfApi, constants, file_download

from nnunet_mamba.cli import main
from nnunet_mamba.sharing import hub
from nnunet_mamba.sharing.import_model import import_model

URL = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The hub, in the place of the real one for the client."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + URL)
        yield found


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_pushed_comes_back_and_is_imported(exported, server, tmp_path):
    assert hub.push_export(exported, "doe/model", private=False) == f"{server.address}/doe/model"
    assert server.models["doe/model"] == Model(False, contents(exported))
    for revision in (None, COMMIT):
        pulled = hub.pull_export("doe/model", revision)
        assert contents(pulled) == contents(exported)
    assert (import_model(pulled, tmp_path / "there") / "fold_0" / "checkpoint_final.pth").is_file()


def test_files_of_an_earlier_export_go_and_those_of_others_stay(exported, server):
    hub.push_export(exported, "doe/model", private=True)
    model = server.models["doe/model"]
    assert model.private
    model.files |= dict.fromkeys(("fold_4.safetensors", "fold_4.json", ".gitattributes"), b"")
    (exported / "notes.txt").write_text("of the machine")
    (exported / "README.md").write_text((exported / "README.md").read_text() + "More.")
    hub.push_export(exported, "doe/model", private=True)
    assert model.files["README.md"].endswith(b"More.") and ".gitattributes" in model.files
    assert not set(model.files) & {"fold_4.safetensors", "fold_4.json", "notes.txt"}
    assert set(contents(hub.pull_export("doe/model"))) == set(contents(exported)) - {"notes.txt"}


def test_nothing_private_goes_to_a_public_repository(exported, server):
    server.models["doe/model"] = Model()
    with pytest.raises(ValueError, match=r"was not pushed: doe/model exists and is public\. Make it private"):
        hub.push_export(exported, "doe/model", private=True)
    assert not server.models["doe/model"].files


def test_what_the_hub_lacks_is_named(server):
    with pytest.raises(ValueError, match=r"hf://doe/model does not exist, or is private: look at the name"):
        hub.pull_export("doe/model")
    server.models["doe/model"] = Model(files={"fold_0.json": b"{}"})
    with pytest.raises(ValueError, match=r"hf://doe/model has no revision v9; expected a branch"):
        hub.pull_export("doe/model", "v9")
    with pytest.raises(ValueError, match=r"hf://doe/model is no export: it has no model.json"):
        hub.pull_export("doe/model")


def test_what_the_hub_keeps_back_is_told_with_the_way_to_get_it(exported, server, monkeypatch):
    server.models["doe/gated"] = Model(files=contents(exported), gated=True)
    with pytest.raises(ValueError, match=rf"gated: ask for access at {server.address}/doe/gated, and log in"):
        hub.pull_export("doe/gated")
    server.models["doe/private"] = Model(files=contents(exported), private=True)
    assert hub.pull_export("doe/private").is_dir()
    server.models["doe/other"] = Model(files=contents(exported), private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    with pytest.raises(ValueError, match=r"hf://doe/other does not exist, or is private: .*hf auth login"):
        hub.pull_export("doe/other")


def test_a_download_that_breaks_off_goes_on_and_one_that_cannot_imports_nothing(
    exported, server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    model = server.models["doe/model"] = Model(files=contents(exported))
    model.cuts["fold_0.safetensors"] = [0] * 20
    words = ["import-model", "hf://doe/model", "-o", str(tmp_path / "there")]
    assert main(words) == 2
    assert "could not be downloaded: " in capsys.readouterr().err and not (tmp_path / "there").exists()
    model.cuts["fold_0.safetensors"] = [100, 0]
    assert main(words) == 0
    assert contents(hub.pull_export("doe/model")) == contents(exported)


def test_a_damaged_cache_is_filled_again_and_damage_on_the_hub_is_refused(exported, server, tmp_path):
    model = server.models["doe/model"] = Model(files=contents(exported))
    weights = hub.pull_export("doe/model") / "fold_1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    assert contents(hub.pull_export("doe/model")) == contents(exported)
    model.files["fold_1.safetensors"] = model.files["fold_1.safetensors"][:-50]
    weights.resolve().unlink()
    with pytest.raises(ValueError, match=r"has damaged files: fold_1.safetensors"):
        import_model(hub.pull_export("doe/model"), tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_failed_push_keeps_the_export_and_says_how_to_go_on(exported, server, monkeypatch):
    before = contents(exported)

    def refuse(self, *args, **options):
        raise RuntimeError("401: no\ntoken.")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    exported = exported.rename(exported.with_name("my export"))
    with pytest.raises(ValueError, match=r"is complete, but .* to doe/model: 401: no token\. Once") as error:
        hub.push_export(exported, "doe/model", private=False)
    command = f"hf upload doe/model '{exported}' ."
    assert str(error.value).endswith(command) and contents(exported) == before


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
        with pytest.raises(ValueError, match=r"pip install huggingface-hub"):
            call()
