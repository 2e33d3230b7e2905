"""Runs of `nnunet-mamba convert` for tests, and the folders that they leave."""

from pathlib import Path

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets import convert


def run(name: str, sources: list[Path], raw: Path, *options: str) -> int:
    return main(["convert", name, *map(str, sources), "--raw", str(raw), *options])


def dataset(raw: Path) -> Path:
    (folder,) = raw.glob("Dataset*")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below the folder, hidden ones too."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def interrupt_at(k: int, monkeypatch) -> None:
    """Interrupt the conversion, as Ctrl-C does, at the k-th case (from 1)."""
    count = iter(range(1, 1000))

    def stop(case, *rest):
        if next(count) == k:
            raise KeyboardInterrupt
        return convert_case(case, *rest)

    convert_case = convert.convert_case
    monkeypatch.setattr(convert, "convert_case", stop)
