"""Archives give what their folders give, are unpacked once, and are refused if they cannot be trusted."""

import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from conversions import dataset, interrupt_at, run, tree

from nnunet_mamba.study.datasets import archives

GIB = 1 << 30
Usage = namedtuple("Usage", ["total", "used", "free"])


def zipped(folder: Path, archive: Path) -> Path:
    """Pack the folder with its own name at the top of the archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    return archive


def tarred(folder: Path, archive: Path) -> Path:
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(archive.suffix, "w")
    with tarfile.open(archive, mode) as file:
        file.add(folder, folder.name)
    return archive


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".ZIP"])
def test_an_archive_gives_the_same_dataset_and_leaves_nothing_behind(release, raw, tmp_path, ending):
    (top,) = release("msd")
    archive = (zipped if ending.lower() == ".zip" else tarred)(top, tmp_path / f"task{ending}")
    assert run("msd", [top], raw / "folder") == 0
    assert run("msd", [archive], raw / "archive") == 0
    assert tree(raw / "archive") == tree(raw / "folder")


def test_amos_zip_with_what_a_mac_has_put_in(release, raw, tmp_path):
    (top,) = release("amos22_ct")
    archive = tmp_path / "amos22.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(top.parent.rglob("*")):
            file.write(path, path.relative_to(top.parent))
    assert run("amos22_ct", [top], raw / "folder") == 0
    assert run("amos22_ct", [archive], raw / "archive") == 0
    assert tree(raw / "archive") == tree(raw / "folder")


def test_isic_from_its_six_archives_at_once(release, raw, tmp_path):
    folders = release("isic17")
    files = [zipped(folder, tmp_path / f"{folder.name}.zip") for folder in folders]
    assert run("isic17", folders, raw / "folders") == 0
    assert run("isic17", files, raw / "archives") == 0
    assert run("isic17", [*files[:3], *folders[3:]], raw / "mixed") == 0
    assert tree(raw / "archives") == tree(raw / "folders") == tree(raw / "mixed")


def test_archives_without_a_top_folder(release, raw, tmp_path):
    """Kaggle's of BraTS 2021 are such."""
    (top,) = release("brats21")
    archive = tmp_path / "BraTS2021_Training_Data.tar"
    with tarfile.open(archive, "w") as file:
        file.add(top, ".")
    assert run("brats21", [top], raw / "folder") == 0
    assert run("brats21", [archive], raw / "archive") == 0
    assert tree(raw / "archive") == tree(raw / "folder")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--split", "nnformr"], "Unknown split of acdc 'nnformr'. Did you mean nnformer?"),
        (["--dataset-id", "5"], "Dataset005_Other has this number already"),
        ([], "Dataset027_ACDC exists already"),
    ],
)
def test_what_can_be_known_before_is_refused_before_anything_is_unpacked(
    release, raw, tmp_path, capsys, options, reason
):
    archive = zipped(release("acdc")[0], tmp_path / "ACDC.zip")
    for taken in ("Dataset027_ACDC", "Dataset005_Other"):
        (raw / taken).mkdir(parents=True)
    assert run("acdc", [archive], raw, *options) == 2
    assert reason in capsys.readouterr().err
    assert not list(raw.glob(".*"))


def test_an_archive_is_unpacked_once_for_all_attempts(release, raw, tmp_path, monkeypatch):
    (top,) = release("msd")
    archive = zipped(top, tmp_path / "task.zip")
    with monkeypatch.context() as patch:
        interrupt_at(3, patch)
        assert run("msd", [archive], raw) == 130
    monkeypatch.setattr(archives, "unpack", None)
    assert run("msd", [archive], raw) == 0
    assert not list(raw.glob(".*"))


def test_after_a_fault_an_archive_is_neither_unpacked_nor_converted_anew(
    release, raw, tmp_path, monkeypatch, converted_cases
):
    (top,) = release("msd")
    (top / "labelsTr" / "hippocampus_001.nii.gz").write_bytes(b"")
    archive = zipped(top, tmp_path / "task.zip")
    assert run("msd", [archive], raw) == 1
    assert len(converted_cases) == 8
    monkeypatch.setattr(archives, "unpack", None)
    assert run("msd", [archive], raw, "--leave-out-faulty") == 1
    assert converted_cases[8:] == ["hippocampus_001"]
    assert not list(raw.glob(".*"))


def test_an_archive_that_was_fetched_again_is_unpacked_again(release, raw, tmp_path):
    (top,) = release("msd")
    image = top / "imagesTr" / "hippocampus_001.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    archive = zipped(top, tmp_path / "task.zip")
    assert run("msd", [archive], raw) == 1
    image.write_bytes(whole)
    zipped(top, archive)
    assert run("msd", [archive], raw) == 0
    assert len(list((dataset(raw) / "imagesTr").iterdir())) == 6
    assert not list(raw.glob(".*"))


def test_unpacking_that_is_interrupted_leaves_nothing(release, raw, tmp_path, monkeypatch):
    def half(stream, out):
        out.write(stream.read(10))
        raise KeyboardInterrupt

    archive = zipped(release("msd")[0], tmp_path / "task.zip")
    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", half)
        assert run("msd", [archive], raw) == 130
    assert tree(raw) == {}
    assert run("msd", [archive], raw) == 0


def test_a_dry_run_of_an_archive_says_what_one_of_its_folder_says(release, raw, tmp_path, capsys):
    (top,) = release("msd")
    archive = zipped(top, tmp_path / "task.zip")
    assert run("msd", [archive], raw, "--dry-run") == 0
    said = capsys.readouterr().out
    assert run("msd", [top], raw, "--dry-run") == 0
    of_folder = capsys.readouterr().out
    assert [line.split(" -> ")[-1] for line in said.splitlines()] == [
        line.split(" -> ")[-1] for line in of_folder.splitlines()
    ]
    assert "labelsTr/hippocampus_001.nii.gz" in said
    assert not raw.exists()


def test_links_into_an_archive_are_refused(release, raw, tmp_path, capsys):
    archive = zipped(release("msd")[0], tmp_path / "task.zip")
    assert run("msd", [archive], raw, "--symlink") == 2
    assert "--symlink needs an unpacked release" in capsys.readouterr().err


OUTSIDE = ["../x", "Task04/../../x", "/x", "C:\\x", "C:/x", "c:x", "..\\x", "\\\\host\\share\\x", "\\x"]


def zip_with(file: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("Task04_Made/dataset.json", "{}")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        info.external_attr = mode << 16
        archive.writestr(info, b"elsewhere")


def tar_with(file: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    """Write an archive with one member of a type of `tarfile`; a link leads to /etc/passwd."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "" if kind == tarfile.REGTYPE else "/etc/passwd"
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("Task04_Made/dataset.json"))
        archive.addfile(info)


def assert_refused(archive: Path, tmp_path: Path, capsys, says: str) -> None:
    """Assert that the command refuses the archive and writes nothing, neither inside nor outside."""
    before = tree(tmp_path)
    for options in ([], ["--dry-run"]):
        assert run("msd", [archive], tmp_path / "a" / "b" / "raw", *options) == 2
        said = capsys.readouterr().err
        assert says in said and str(archive) in said
    assert tree(tmp_path) == before
    assert not Path("/x").exists()


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("write", [zip_with, tar_with])
def test_names_that_lead_outside_are_refused(tmp_path, capsys, write, name):
    archive = tmp_path / ("evil.zip" if write is zip_with else "evil.tar")
    write(archive, name)
    assert_refused(archive, tmp_path, capsys, "would be written outside of its folder")


def test_a_link_in_a_zip_is_refused(tmp_path, capsys):
    zip_with(tmp_path / "evil.zip", "Task04_Made/imagesTr", stat.S_IFLNK | 0o777)
    assert_refused(tmp_path / "evil.zip", tmp_path, capsys, "a link or device; only plain files are taken")


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_a_link_or_device_in_a_tar_is_refused(tmp_path, capsys, kind):
    tar_with(tmp_path / "evil.tar", "Task04_Made/imagesTr", getattr(tarfile, kind))
    assert_refused(tmp_path / "evil.tar", tmp_path, capsys, "a link or device; only plain files are taken")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_refused_and_leaves_nothing(release, raw, tmp_path, capsys, ending, part):
    (top,) = release("brats21")
    archive = (zipped if ending == ".zip" else tarred)(top, tmp_path / f"data{ending}")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    assert run("brats21", [archive], raw) == 2
    assert f"{archive} cannot be unpacked" in capsys.readouterr().err
    assert not raw.exists() or tree(raw) == {}


def test_an_archive_with_a_wrong_checksum_is_refused(release, raw, tmp_path, capsys):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Task04_Made/dataset.json", "x" * 1000)
    archive.write_bytes(archive.read_bytes().replace(b"xxx", b"xyx", 1))
    assert run("msd", [archive], raw) == 2
    assert "cannot be unpacked (Bad CRC-32" in capsys.readouterr().err


def test_an_encrypted_archive_is_refused(raw, tmp_path, capsys):
    """Bit 0 of the flags, at byte 6 of the local header and byte 8 of the central one."""
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Task04_Made/dataset.json", "{}")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\3\4") + 6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    assert run("msd", [archive], raw) == 2
    assert "is encrypted, password required" in capsys.readouterr().err
    assert not raw.exists() or tree(raw) == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere", "does not exist"), ("notes.txt", "is neither a folder nor an archive (.zip, .tar, ")],
)
def test_what_is_neither_folder_nor_archive(tmp_path, raw, capsys, name, says):
    (tmp_path / "notes.txt").write_text("")
    assert run("msd", [tmp_path / name], raw) == 2
    assert says in capsys.readouterr().err


def test_an_empty_archive_holds_no_release(tmp_path, raw, capsys):
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert run("acdc", [tmp_path / "empty.zip"], raw) == 2
    assert "it holds no files" in capsys.readouterr().err


def test_a_tar_that_ends_with_a_zip_is_a_tar(release, raw, tmp_path):
    (top,) = release("brats21")
    zipped(top / sorted(child.name for child in top.iterdir())[0], top / "zzz_mapping.xlsx")
    assert run("brats21", [tarred(top, tmp_path / "BraTS2021.tar")], raw) == 0


def test_a_damaged_tar_xz_is_refused_in_words(raw, tmp_path, capsys):
    (tmp_path / "x.tar.xz").write_bytes(b"\xfd7zXZ\x00" + bytes(40))
    assert run("brats21", [tmp_path / "x.tar.xz"], raw) == 2
    assert "cannot be unpacked" in capsys.readouterr().err


def test_a_full_disk_is_told_before_anything_is_unpacked(release, raw, tmp_path, monkeypatch, capsys):
    archive = zipped(release("msd")[0], tmp_path / "task.zip")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, GIB, 0))
    assert run("msd", [archive], raw) == 2
    assert "has 0.0 GiB left" in capsys.readouterr().err
    assert tree(raw) == {}
