"""An export imported again: the same model, and nothing half-written where it cannot be."""

import json
import os
import pickle
import shutil

import pytest
import torch

from nnunet_mamba.io import torch_load
from nnunet_mamba.sharing.export_model import export_model
from nnunet_mamba.sharing.import_model import check_free_number, import_model, open_model
from nnunet_mamba.sharing.manifest import compute_digest, is_export, read_manifest

FILES = {"model.json", "README.md", "plans.json", "dataset.json"} | {
    f"fold_{fold}.{kind}" for fold in "01" for kind in ("json", "safetensors")
}


def read(folder, fold, weights_only=True):
    return torch.load(folder / f"fold_{fold}" / "checkpoint_final.pth", weights_only=weights_only)


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def change(export, name, make, *, with_digest=True):
    """Change a JSON file of an export, and its digest, as someone would who means harm."""
    file = export / name
    content = json.loads(file.read_text())
    make(content)
    file.write_text(json.dumps(content))
    if with_digest and name != "model.json":
        change(export, "model.json", lambda manifest: manifest["files"].update({name: compute_digest(file)}))


def nothing_is_left(folder):
    return not folder.exists() or not [path for path in folder.rglob("*") if path.is_file()]


def test_a_model_comes_back_to_the_last_bit(trained, exported, tmp_path):
    assert {file.name for file in exported.iterdir()} == FILES
    folder = import_model(exported, tmp_path / "there")
    assert folder == tmp_path / "there" / trained.folder.parent.name / trained.folder.name
    for fold in ("0", "1"):
        before, after = read(trained.folder, fold), read(folder, fold)
        assert list(before["network_weights"]) == list(after["network_weights"])
        for name, tensor in before["network_weights"].items():
            one = after["network_weights"][name]
            assert (one.dtype, one.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(raw(one), raw(tensor)), name
        shared = [after["network_weights"][name] for name in ("encoder.conv", "decoder.encoder.conv")]
        assert shared[0].data_ptr() == shared[1].data_ptr()
        for key in ("trainer_name", "inference_allowed_mirroring_axes"):
            assert after[key] == before[key]
        assert after["init_args"] == {
            "plans": trained.plans,
            "configuration": "3d_fullres",
            "fold": int(fold),
            "dataset_json": trained.description,
        }
        assert set(before) - set(after) == {"optimizer_state", "current_epoch"}
    for name in ("plans.json", "dataset.json"):
        assert (folder / name).read_bytes() == (trained.folder / name).read_bytes()
    again = export_model(folder, tmp_path / "again")
    assert again.files["fold_0.safetensors"] == read_manifest(exported).files["fold_0.safetensors"]


def test_an_export_holds_no_pickle_no_optimizer_and_no_list_of_cases(trained, tmp_path):
    paths = {"case_1": {"images": ["/home/someone/case_1.nii.gz"]}}
    trained.description |= {"dataset": paths, "training": [], "validation": ["liver_7"]}
    trained.write()
    export_model(trained.folder, tmp_path / "export")
    for file in (tmp_path / "export").iterdir():
        content = file.read_bytes()
        assert b"case_1" not in content and b"momentum" not in content and not content.startswith(b"PK")
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError)):
            pickle.loads(content)
    kept = json.loads((tmp_path / "export" / "dataset.json").read_text())
    assert set(trained.description) - set(kept) == {"dataset", "training", "validation"}


def test_an_import_reads_no_pickle(exported, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a pickle is read")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch_load, "load_restricted", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    assert import_model(exported, tmp_path / "there").is_dir()


def test_an_export_runs_no_code_of_a_checkpoint(trained, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    content = read(trained.folder, 0)
    torch.save({**content, "logging": Evil()}, trained.folder / "fold_0" / "checkpoint_final.pth")
    export_model(trained.folder, tmp_path / "export", folds=["0"])
    assert not (tmp_path / "run").exists()


def test_folds_and_checkpoints_can_be_chosen(trained, exported, tmp_path):
    best = export_model(trained.folder, tmp_path / "best", checkpoint="checkpoint_best.pth")
    assert best.folds == ("all",) and best.checkpoint == "checkpoint_best.pth"
    folder = import_model(tmp_path / "best", tmp_path / "there")
    assert [file.name for file in (folder / "fold_all").iterdir()] == ["checkpoint_final.pth"]
    assert read(folder, "all")["init_args"]["fold"] == "all"
    one = import_model(exported, tmp_path / "one", folds=["1", "1"], dataset="Dataset123_Other")
    assert one.parent.name == "Dataset123_Other" and [*one.glob("fold_*")] == [one / "fold_1"]


def test_a_folder_anywhere_is_of_the_dataset_that_its_plans_name(trained, tmp_path):
    moved = shutil.move(trained.folder, tmp_path / "mine" / trained.folder.name)
    assert export_model(moved, tmp_path / "export").dataset == "Dataset999_Tiny"
    plans = {**trained.plans, "dataset_name": "Tiny"}
    (moved / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"of no dataset: .* its plans \(dataset_name: Tiny\) name one"):
        export_model(moved, tmp_path / "other")


def test_copies_of_a_fold_are_no_folds(trained, tmp_path):
    shutil.copytree(trained.folder / "fold_0", trained.folder / "fold_0_old")
    assert export_model(trained.folder, tmp_path / "export").folds == ("0", "1")


def test_a_name_that_an_import_would_refuse_is_refused_at_once(trained, tmp_path):
    folder = trained.folder.rename(
        trained.folder.with_name("nnUNetTrainerMMUNet_5epochs__my plans__3d_fullres")
    )
    with pytest.raises(ValueError, match=r"cannot be exported: 'my plans' in its name has other signs than"):
        export_model(folder, tmp_path / "export")


def test_other_files_beside_an_export_do_not_matter(exported, tmp_path):
    (exported / ".gitattributes").write_text("")
    (exported / "fold_7.json").write_text("no json")
    assert not (import_model(exported, tmp_path / "there") / "fold_7").exists()


def test_a_model_is_opened_as_it_is_or_for_a_while(trained, exported):
    with open_model(trained.folder, ["0"]) as folder:
        assert folder == trained.folder
    with open_model(exported, ["1"]) as folder:
        assert folder.name == trained.folder.name and (folder / "fold_1").is_dir()
    assert not folder.exists() and is_export(exported)


def wrong_trainer(trained):
    content = read(trained.folder, 0)
    torch.save({**content, "trainer_name": "nnUNetTrainer"}, trained.folder / "fold_0/checkpoint_final.pth")


def other_spacing(trained):
    trained.plans["configurations"]["3d_fullres"]["spacing"] = [9.0, 9.0, 9.0]
    trained.write()


def named_code(trained):
    trained.plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "os.system"
    trained.write()


def no_plans(trained):
    (trained.folder / "plans.json").unlink()


def odd_weight(trained):
    content = read(trained.folder, 1)
    content["network_weights"]["odd"] = 3
    torch.save(content, trained.folder / "fold_1/checkpoint_final.pth")


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (wrong_trainer, {}, "is of trainer nnUNetTrainer .* name says nnUNetTrainerMMUNet_5epochs"),
        (other_spacing, {}, "is not what .* was trained with: 3d_fullres: spacing differ"),
        (named_code, {}, "names 'os.system'"),
        (no_plans, {}, "is not a trained folder of nnU-Net; expected nnUNet_results/DATASET/TRAINER__"),
        (odd_weight, {}, "odd is a int; only dense"),
        (None, {"folds": ["0", "3"]}, "no checkpoint_final.pth of fold 3. There are folds 0, 1 with it"),
        (None, {"checkpoint": "x.pth"}, "no x.pth of fold 0 or any .*: checkpoint_best.pth, checkpoint_fi"),
    ],
)
def test_an_export_that_would_not_hold_is_refused(trained, tmp_path, spoil, options, said):
    if spoil:
        spoil(trained)
    with pytest.raises(ValueError, match=said):
        export_model(trained.folder, tmp_path / "out" / "export", **options)
    assert nothing_is_left(tmp_path / "out")


def test_nothing_that_exists_is_written_to(trained, exported, tmp_path):
    before = {file: file.read_bytes() for file in exported.iterdir()}
    with pytest.raises(FileExistsError, match="exists already"):
        export_model(trained.folder, exported)
    assert before == {file: file.read_bytes() for file in exported.iterdir()}
    with pytest.raises(FileExistsError, match="exists already"):
        import_model(exported, trained.folder.parents[1])


@pytest.mark.parametrize("name", sorted(FILES - {"model.json"}))
def test_a_damaged_or_missing_file_is_named_before_anything_is_written(exported, tmp_path, name):
    content = bytearray((exported / name).read_bytes())
    content[len(content) // 2] ^= 1
    (exported / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"has damaged files: {name}. Copy or download it again"):
        import_model(exported, tmp_path / "there")
    (exported / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}. Copy"):
        import_model(exported, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def set_class(path):
    def make(plans):
        plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = path

    return make


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("model.json", lambda m: m.update(format=2), "has format 2; this version .* reads format 1. Install"),
        ("model.json", lambda m: m.pop("format"), "model.json is not valid: format: Field required"),
        ("model.json", lambda m: m.update(dataset="../Dataset001_X"), "not valid: dataset: String should"),
        ("model.json", lambda m: m.update(dataset="Dataset001_X/../../y"), "not valid: dataset"),
        ("model.json", lambda m: m.update(trainer="/tmp/nnUNetTrainer"), "not valid: trainer"),
        ("model.json", lambda m: m.update(plans="a__b"), "is not TRAINER__PLANS__CONFIGURATION"),
        ("model.json", lambda m: m.update(configuration=".."), "not valid: configuration"),
        ("model.json", lambda m: m.update(configuration="2d"), "cannot be read as plans .*2d is inherited"),
        ("model.json", lambda m: m.update(folds=["../0"]), "not valid: folds.0"),
        ("model.json", lambda m: m.update(folds=[]), "not valid: folds"),
        ("model.json", lambda m: m.update(folds=["0", "0"]), "names a fold twice"),
        ("model.json", lambda m: m["files"].update({"../x": "0" * 64}), "that no export has: '../x'"),
        ("model.json", lambda m: m["files"].pop("plans.json"), "lacks the digests of plans.json"),
        ("model.json", lambda m: m["files"].update({"README.md": "no"}), "not valid: files.README.md"),
        ("model.json", lambda m: m.update(more=1), "not valid: more: Extra inputs"),
        ("fold_0.json", lambda r: r.update(inference_allowed_mirroring_axes=[9]), "fold_0.json is not valid"),
        ("fold_0.json", lambda r: r["weights"].update(other="none"), "do not fit: none"),
        ("plans.json", set_class("subprocess.Popen"), "names 'subprocess.Popen'"),
        ("dataset.json", lambda d: d.update(file_ending="/../x.nii"), "file_ending '/../x.nii'"),
        ("dataset.json", lambda d: d.update(labels=["liver"]), "labels in .* are"),
        ("dataset.json", lambda d: d.pop("channel_names"), "dataset.json lacks channel_names"),
        ("dataset.json", lambda d: d.pop("regions_class_order"), "lacks regions_class_order. nnU-Net cannot"),
        ("dataset.json", lambda d: d["labels"].pop("background"), "lacks labels: background"),
        ("dataset.json", lambda d: d.pop("labels"), "it lacks labels"),
        ("plans.json", lambda p: p.pop("configurations"), "plans.json lacks 'configurations'. nnU-Net can"),
    ],
)
def test_what_could_do_harm_is_refused_before_anything_is_left(exported, tmp_path, name, make, said):
    change(exported, name, make)
    with pytest.raises(ValueError, match=said):
        import_model(exported, tmp_path / "there")
    assert nothing_is_left(tmp_path / "there")


@pytest.mark.parametrize("name", ["model.json", "plans.json", "dataset.json", "fold_1.json"])
@pytest.mark.parametrize("content", [b"", b"[1", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_the_json_that_is_expected_is_refused(exported, tmp_path, name, content):
    (exported / name).write_bytes(content)
    if name != "model.json":
        digest = compute_digest(exported / name)
        change(exported, "model.json", lambda manifest: manifest["files"].update({name: digest}))
    with pytest.raises(ValueError, match=name):
        import_model(exported, tmp_path / "there")
    assert nothing_is_left(tmp_path / "there")


def test_what_is_no_export_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=r"is no export: it has no model.json"):
        import_model(trained.folder, tmp_path / "there")


def test_missing_folds_and_names_that_are_none_are_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="has no fold 2, all; give -f 0 1, or some of them"):
        import_model(exported, tmp_path / "there", folds=["0", "2", "all"])
    for name in ("Other", "Dataset1_X", "../Dataset001_X", "Dataset001_X\n"):
        with pytest.raises(ValueError, match="is not a name of a dataset"):
            import_model(exported, tmp_path / "there", dataset=name)
    assert not (tmp_path / "there").exists()


def test_a_full_disk_leaves_nothing(exported, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OSError, match="No space left"):
        import_model(exported, tmp_path / "there")
    assert nothing_is_left(tmp_path / "there")


def test_a_number_that_another_dataset_has_is_refused_with_a_free_one(tmp_path):
    (tmp_path / "a" / "Dataset004_Hippocampus").mkdir(parents=True)
    (tmp_path / "a" / "Dataset500_Five").mkdir()
    places = [tmp_path / "a", tmp_path / "absent"]
    check_free_number("Dataset004_Hippocampus", places)
    check_free_number("Dataset005_Liver", places)
    with pytest.raises(ValueError, match=r"number of Dataset004_Hippocampus.*as Dataset501_Liver"):
        check_free_number("Dataset004_Liver", places)
