"""Laws of the conversion: interrupted or not, it ends with the same bytes; links, pictures, refusals."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conversions import dataset, interrupt_at, run, tree
from tiny_files import blocks, label_bytes, put, read_volume, scan_bytes

from nnunet_mamba.cli import main
from nnunet_mamba.io.images import read_picture
from nnunet_mamba.study.datasets import case_io

GIB = 1 << 30


@pytest.mark.parametrize("k", [1, 4, 6])
@pytest.mark.parametrize("name", ["brats21", "msd", "isic18"])
def test_interrupted_and_resumed_gives_the_bytes_of_an_uninterrupted_run(release, raw, monkeypatch, name, k):
    sources = release(name)
    assert run(name, sources, raw / "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(k, patch)
        assert run(name, sources, raw / "resumed", "--workers", "1") == 130
    assert not list((raw / "resumed").glob("Dataset*"))
    assert run(name, sources, raw / "resumed") == 0
    assert tree(raw / "resumed") == tree(raw / "whole")


def test_a_file_that_was_being_written_when_interrupted_is_written_again(release, raw, monkeypatch):
    sources = release("msd")
    assert run("msd", sources, raw / "whole") == 0

    def half(file, target):
        Path(target).write_bytes(Path(file).read_bytes()[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(case_io.shutil, "copyfile", half)
        assert run("msd", sources, raw / "resumed") == 130
    assert run("msd", sources, raw / "resumed") == 0
    assert tree(raw / "resumed") == tree(raw / "whole")


def test_resumed_only_what_is_missing_is_converted(release, raw, monkeypatch, converted_cases):
    sources = release("brats21")
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        run("brats21", sources, raw, "--workers", "1")
    done, converted_cases[:] = set(converted_cases), []
    assert run("brats21", sources, raw) == 0
    assert len(done) >= 3 and len(converted_cases) + len(done) == 6
    assert not done & set(converted_cases)


def test_a_record_cut_short_costs_one_case(release, raw, monkeypatch, converted_cases):
    sources = release("brats21")
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        run("brats21", sources, raw, "--workers", "1")
    n_done = len(converted_cases)
    (record,) = raw.rglob("done.jsonl")
    record.write_text(record.read_text()[:-10])
    converted_cases.clear()
    assert run("brats21", sources, raw) == 0
    assert len(converted_cases) == 6 - n_done + 1


def test_a_source_that_changed_is_converted_anew(release, raw, monkeypatch):
    (top,) = release("brats21")
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        run("brats21", [top], raw, "--workers", "1")
    put(top / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz", label_bytes((0, 4)))
    assert run("brats21", [top], raw) == 0
    label = read_volume(dataset(raw) / "labelsTr" / "BraTS2021_00000.nii.gz")
    assert np.array_equal(label, blocks([0, 3]))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("isic18", ["--resize", "16", "16"], []),
        ("isic18", [], ["--resize", "16", "24"]),
        ("msd", [], ["--symlink"]),
        ("msd", ["--symlink"], []),
        ("msd", ["--split", "2:1:1"], ["--split", "1:2:3"]),
    ],
)
def test_a_resumed_run_heeds_its_own_options(release, raw, monkeypatch, name, before, after):
    sources = release(name)
    assert run(name, sources, raw / "whole", *after) == 0
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert run(name, sources, raw / "resumed", "--workers", "1", *before) == 130
    assert run(name, sources, raw / "resumed", *after) == 0
    assert tree(raw / "resumed") == tree(raw / "whole")
    assert {f.is_symlink() for f in (raw / "resumed").rglob("*.nii.gz")} <= {"--symlink" in after}


def test_stale_files_of_a_draft_do_not_survive(release, raw):
    sources = release("flare22")
    assert run("flare22", sources, raw / "whole") == 0
    draft = raw / "resumed" / ".Dataset701_AbdomenCT.partial"
    for name in ("imagesTr/old_0000.nii.gz", "labelsTr/old.nii.gz", "imagesTs/.partial-x.nii.gz"):
        put(draft / name, b"old")
    assert run("flare22", sources, raw / "resumed") == 0
    assert tree(raw / "resumed") == tree(raw / "whole")


@pytest.mark.parametrize("name", ["brats21", "acdc", "cellseg"])
def test_neither_the_file_systems_order_nor_the_number_of_threads_matters(release, raw, monkeypatch, name):
    sources = release(name)
    assert run(name, sources, raw / "usual", "--workers", "1") == 0
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    assert run(name, sources[::-1], raw / "other", "--workers", "5") == 0
    monkeypatch.undo()
    assert tree(raw / "other") == tree(raw / "usual")


def test_links_where_nnunet_can_read_the_file_and_files_where_values_change(release, raw):
    (top,) = release("synapse8")
    assert run("synapse8", [top], raw, "--symlink") == 0
    image = dataset(raw) / "imagesTr" / "img0001_0000.nii.gz"
    assert image.is_symlink() and image.resolve() == (top / "Training" / "img" / "img0001.nii.gz").resolve()
    assert not (dataset(raw) / "labelsTr" / "img0001.nii.gz").is_symlink()


def test_links_lead_to_the_source_wherever_the_command_was_given(release, raw, monkeypatch):
    (top,) = release("msd")
    monkeypatch.chdir(top.parent)
    assert run("msd", [Path(top.name)], raw, "--symlink") == 0
    assert all(file.is_file() for file in dataset(raw).glob("*T[rs]/*"))


def test_a_file_system_without_links_gets_copies(release, raw, monkeypatch):
    def no_links(self, target):
        raise OSError("not supported")

    sources = release("msd")
    assert run("msd", sources, raw / "copies") == 0
    monkeypatch.setattr(Path, "symlink_to", no_links)
    assert run("msd", sources, raw / "links", "--symlink") == 0
    assert tree(raw / "links") == tree(raw / "copies")
    assert not any(file.is_symlink() for file in raw.rglob("*"))


@pytest.mark.parametrize("name", ["acdc", "msd", "isic17", "brats21"])
def test_a_dry_run_writes_nothing_and_names_files_and_counts_the_rest(
    release, raw, capsys, monkeypatch, name
):
    sources = release(name)

    def lines(sample: int) -> list[str]:
        monkeypatch.setattr("nnunet_mamba.cli.convert.SAMPLE", sample)
        assert run(name, sources, raw, "--dry-run") == 0
        return capsys.readouterr().out.splitlines()

    everything, sample = lines(1000), lines(1)
    assert not raw.exists()
    assert run(name, sources, raw) == 0
    for file in dataset(raw).glob("*T[rs]/*"):
        assert f"{file.parent.name}/{file.name}" in "\n".join(everything)
    left_out = [int(line.split()[1]) for line in sample if line.startswith("  and ")]
    assert len(everything) == len(sample) - len(left_out) + sum(left_out)
    assert left_out


def test_the_last_line_is_the_next_command(release, raw, capsys):
    assert run("msd", release("msd"), raw, "--dataset-id", "44") == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "next: nnUNetv2_plan_and_preprocess -d 44 --verify_dataset_integrity"
    )


def test_many_faults_are_a_few_lines_of_each_kind(release, raw, capsys, tmp_path):
    from nnunet_mamba.study.datasets.source import InvalidDatasetError, Issue

    issues = [Issue("missing", f"c{n}", f"no image {n}") for n in range(177)]
    issues += [Issue("empty", "c200", "nothing in it")]
    said = str(InvalidDatasetError(issues, tmp_path / "faults.txt")).splitlines()
    assert said[0] == "faults in the data (177 missing, 1 empty):"
    assert said[1:] == [
        *(f"  missing: no image {n}" for n in range(5)),
        "  missing: and 172 more",
        "  empty: nothing in it",
        f"  all are in {tmp_path / 'faults.txt'}",
    ]


def test_a_dry_run_tells_faults_of_names(release, raw, capsys):
    (top,) = release("brats21")
    (top / "BraTS2021_00003" / "BraTS2021_00003_t2.nii.gz").unlink()
    assert run("brats21", [top], raw, "--dry-run") == 1
    assert "missing: case BraTS2021_00003 has no image" in capsys.readouterr().out
    assert not raw.exists()


def test_a_number_that_another_dataset_has_is_refused(release, raw, capsys):
    (raw / "Dataset004_Liver").mkdir(parents=True)
    sources = release("msd")
    assert run("msd", sources, raw) == 2
    assert "Dataset004_Liver has this number already" in capsys.readouterr().err
    assert run("msd", sources, raw, "--dataset-id", "44") == 0
    assert (raw / "Dataset044_Hippocampus").is_dir()


@pytest.mark.parametrize("number", ["0", "1000", "-3"])
def test_a_number_has_three_digits(release, raw, capsys, number):
    assert run("msd", release("msd"), raw, "--dataset-id", number) == 2
    assert "three digits, 1 to 999" in capsys.readouterr().err


def test_a_dataset_that_is_there_is_not_touched(release, raw, capsys):
    sources = release("msd")
    run("msd", sources, raw)
    before = tree(raw)
    assert run("msd", sources, raw) == 2
    assert "exists already" in capsys.readouterr().err
    assert tree(raw) == before


Usage = namedtuple("Usage", ["total", "used", "free"])


def test_a_full_disk_is_told_before_anything_is_written(release, raw, monkeypatch, capsys):
    sources = release("msd")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, GIB, 0))
    assert run("msd", sources, raw) == 2
    said = capsys.readouterr().err
    assert "has 0.0 GiB left" in said and "or use --symlink" in said
    assert tree(raw) == {}
    assert run("msd", sources, raw, "--symlink") == 0


def test_a_resumed_run_needs_room_for_the_rest_only(release, raw, monkeypatch):
    sources = release("brats21")
    total = sum(file.stat().st_size for file in sources[0].rglob("*.nii.gz"))
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        run("brats21", sources, raw, "--workers", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, GIB, int(0.6 * total)))
    assert run("brats21", sources, raw / "new") == 2
    assert run("brats21", sources, raw) == 0


@pytest.mark.parametrize("name", ["isic18", "cellseg", "isic17"])
def test_pictures_may_be_resized_and_labels_stay_labels(release, raw, name):
    assert run(name, release(name), raw, "--resize", "20", "24") == 0
    for file in dataset(raw).glob("images*/*"):
        assert read_picture(file).shape == (20, 24, 3)
    for file in dataset(raw).glob("labels*/*"):
        label = read_picture(file)
        assert label.shape == (20, 24)
        assert set(np.unique(label)) <= {0, 1, 2} if name == "cellseg" else {0, 1}


def test_half_the_size_is_half_the_lesion(release, raw):
    """The disc of radius 12 around pixel (20, 24) is one of radius 6 around (10, 12): 113 pixels."""
    assert run("isic18", release("isic18"), raw, "--resize", "20", "24") == 0
    label = read_picture(dataset(raw) / "labelsTr" / "ISIC_0000001.png")
    assert label.sum() == pytest.approx(np.pi * 6**2, rel=0.1)
    assert np.argwhere(label).mean(0) == pytest.approx([10 - 0.5, 12 - 0.5], abs=0.6)


def test_volumes_are_not_resized(release, raw, capsys):
    assert run("msd", release("msd"), raw, "--resize", "20", "24") == 2
    assert "--resize is for pictures; msd has volumes" in capsys.readouterr().err


def test_the_folder_comes_from_the_environment_and_is_asked_for(release, monkeypatch, tmp_path, capsys):
    sources = [str(source) for source in release("msd")]
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["convert", "msd", *sources]) == 2
    assert "nnUNet_raw is not set" in capsys.readouterr().err
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "of_nnunet"))
    assert main(["convert", "msd", *sources]) == 0
    assert (tmp_path / "of_nnunet" / "Dataset004_Hippocampus").is_dir()


def test_the_command_says_in_one_line_what_it_wrote_and_where_it_went(release, raw, capfd):
    """Of 5 patients with 2 frames, 2 go to the test, where 4 frames of the release already are."""
    assert run("acdc", release("acdc"), raw, "--split", "2:1:2") == 0
    said = capfd.readouterr()
    assert said.out.splitlines()[-2] == f"-> {dataset(raw)}: 6 cases in imagesTr, 8 in imagesTs"
    assert "sform" not in said.err


def test_the_list_names_every_data_set_with_its_splits(capsys):
    assert main(["convert", "--list"]) == 0
    said = capsys.readouterr().out
    assert "acdc" in said and "splits: nnformer, mamba_unet, taming, taming_torn" in said
    assert "Dataset137_BraTS2021" in said


def test_a_split_that_leaks_is_refused_with_names(release, raw, monkeypatch, capsys):
    """Taming Mambas' folds over frames, here over the patients of the miniature."""
    from nnunet_mamba.study.datasets import splits

    paper = splits.PublishedSplit(
        frozenset(f"patient{n:03d}" for n in (1, 2, 3, 4, 90)),
        frozenset(),
        frozenset(),
        "",
        split_by_image=True,
    )
    monkeypatch.setattr(splits, "get_published_splits", lambda dataset: {"torn": paper})
    assert run("acdc", release("acdc"), raw, "--split", "torn") == 2
    said = capsys.readouterr().err
    assert "The split torn leaks:" in said and "patient0" in said
    assert not raw.exists() or tree(raw) == {}


def test_notes_of_the_dataset_tell_where_it_comes_from(release, raw):
    assert run("brats23", release("brats23"), raw) == 0
    description = json.loads((dataset(raw) / "dataset.json").read_text())
    assert description["nnunet_mamba"] == {"release": "brats23", "group": r"BraTS-GLI-\d{5}"}
    assert scan_bytes(0) == (dataset(raw) / "imagesTr" / "BraTS-GLI-00000-000_0000.nii.gz").read_bytes()


def test_folders_behind_links_are_read(release, raw, tmp_path):
    top = release("flare22")[0]
    linked = tmp_path / "linked"
    linked.mkdir()
    for part in ("images", "labels"):
        (linked / part).symlink_to(top / part)
    (linked / "images" / "loop").symlink_to(linked)
    assert run("flare22", [linked], raw / "linked") == 0
    assert run("flare22", [top], raw / "plain") == 0
    assert tree(raw / "linked") == tree(raw / "plain")


def test_a_file_that_the_draft_has_lost_is_made_again(release, raw, tmp_path):
    top = release("flare22")[0]
    broken = next((top / "images").iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert run("flare22", [top], raw) == 1
    lost = next(raw.glob(".*/imagesTr/*"))
    lost.unlink()
    broken.write_bytes(whole)
    assert run("flare22", [top], raw) == 0
    assert (dataset(raw) / "imagesTr" / lost.name).is_file()


def test_folds_are_drawn_again_when_cases_are_left_out(release, raw):
    top = release("flare22")[0]
    images = sorted((top / "images").glob("FLARE22_Tr*"))
    for image in images[:-2]:
        image.write_bytes(b"")
    assert run("flare22", [top], raw, "--leave-out-faulty") == 1
    folds = json.loads((dataset(raw) / "splits_final.json").read_text())
    assert len(folds) == 2 and all(len(fold["train"]) == len(fold["val"]) == 1 for fold in folds)


def test_a_papers_split_of_a_part_of_its_cases_is_asked_for(release, raw, capsys):
    (top,) = release("synapse")
    assert run("synapse", [top], raw, "--split", "transunet") == 2
    assert "take it as far as it goes: --partial" in capsys.readouterr().err
    assert run("synapse", [top], raw, "--split", "transunet", "--partial") == 0


def test_a_dataset_that_nnunet_has_preprocessed_keeps_its_number(release, raw, capsys, nnunet_folders):
    (nnunet_folders.preprocessed / "Dataset701_Other").mkdir()
    assert run("flare22", release("flare22"), raw) == 2
    assert "Dataset701_Other has this number already" in capsys.readouterr().err
