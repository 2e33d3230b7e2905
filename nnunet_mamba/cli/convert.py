"""nnunet-mamba convert: a downloaded data set becomes nnU-Net's, checked and split."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_mamba.study.datasets.convert import Converted
    from nnunet_mamba.study.datasets.source import InvalidDatasetError, Source
    from nnunet_mamba.study.datasets.splits import Split

SAMPLE = 3  # files of a folder that a dry run names


def add(commands: Any) -> None:
    p = commands.add_parser(
        "convert",
        description="Reads a release as it was downloaded, checks every file, and writes nnU-Net's raw "
        "dataset with splits_final.json. Interrupted or refused, the same command goes on from there. "
        "Exit code 1: there were faults.",
        epilog="example: nnunet-mamba convert acdc ACDC.zip --split mamba_unet",
    )
    p.add_argument("name", metavar="NAME", nargs="?", help="the data set; --list shows them")
    p.add_argument("source", metavar="SOURCE", nargs="*", type=Path, help="its folders or archives")
    p.add_argument("--list", action="store_true", help="show the data sets and their splits")
    p.add_argument("--dataset-id", type=int, metavar="N", help="nnU-Net's number (default: in --list)")
    p.add_argument(
        "--split",
        default="5fold",
        metavar="SPLIT",
        help="5fold (default: nnU-Net's, by patients), official, a ratio such as 7:3 or 70:10:20, or that of "
        "a paper, in --list",
    )
    p.add_argument("--partial", action="store_true", help="a paper's split of which cases are missing")
    p.add_argument("--symlink", action="store_true", help="link files that nnU-Net can read as they are")
    p.add_argument(
        "--unless-there", action="store_true", help="do nothing if the dataset of this number is there"
    )
    p.add_argument("--dry-run", action="store_true", help="say what would be done; reads names only")
    p.add_argument(
        "--accept",
        action="append",
        default=[],
        choices=("geometry", "header", "empty", "extra"),
        metavar="KIND",
        help="take cases with this kind of fault: geometry (their labels are written on the image's grid), "
        "header, empty, extra; may be repeated",
    )
    p.add_argument("--leave-out-faulty", action="store_true", help="go on without cases that have faults")
    p.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"), help="of pictures, in pixels")
    p.add_argument("--raw", type=Path, metavar="DIR", help="where datasets are (default: $nnUNet_raw)")
    p.add_argument("--workers", type=int, metavar="N", help="threads (default: processors, 8 at most)")
    p.set_defaults(run=convert)


def convert(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.name is None or not args.source:
        raise ValueError("expected NAME and SOURCE, or --list.")
    from nnunet_mamba.study.datasets.specs import spec_of

    spec_of(args.name)
    from nnunet_mamba.nnunet.paths import nnunet_folder
    from nnunet_mamba.study.datasets.archives import outlined, unpacked
    from nnunet_mamba.study.datasets.release import read_release
    from nnunet_mamba.study.datasets.source import InvalidDatasetError

    raw = args.raw or nnunet_folder("nnUNet_raw")
    if args.unless_there and (there := _present(args, raw)):
        print(f"{there} is there")
        return 0
    known = _check_request(args, raw)
    scratch = raw / f".{known}.unpacked"
    reader = outlined(args.source) if args.dry_run else unpacked(args.source, scratch)
    try:
        with reader as folders:
            source = read_release(known, folders)
            return _convert(args, known, source, raw, scratch, folders)
    except InvalidDatasetError as error:  # which leaves what was unpacked to the next attempt
        print(error, file=sys.stderr)
        print(_remedy(error, raw), file=sys.stderr)
        return 1


def _remedy(error: InvalidDatasetError, raw: Path) -> str:
    from nnunet_mamba.study.datasets.source import ACCEPTABLE

    acceptable = sorted({fault.kind for fault in error.faults} & set(ACCEPTABLE))
    return (
        "Nothing was written as a dataset yet. Mend or fetch these files and run the command again: what is "
        f"whole is kept, in hidden folders of {raw}. Or go on without them: --leave-out-faulty"
        + (f", or with them: --accept {acceptable[0]}." if acceptable else ".")
    )


def _check_request(args: argparse.Namespace, raw: Path) -> str:
    """The data set's name; ValueError for what can be known to fail before gigabytes are unpacked."""
    from nnunet_mamba.study.datasets.archives import is_archive
    from nnunet_mamba.study.datasets.convert import check_place, renamed
    from nnunet_mamba.study.datasets.specs import spec_of
    from nnunet_mamba.study.datasets.splits import find_split

    known, spec = spec_of(args.name)
    find_split(args.split, known)
    archives = [source for source in args.source if is_archive(source)]
    if args.symlink and archives:
        raise ValueError(f"--symlink needs an unpacked release; {archives[0]} is an archive.")
    if args.resize and spec.file_ending != ".png":
        raise ValueError(f"--resize is for pictures; {known} has volumes.")
    for option, numbers in (("--resize", args.resize), ("--workers", [args.workers])):
        if any(number is not None and number < 1 for number in numbers or ()):
            raise ValueError(f"{option} must be positive, got {numbers}.")
    number = spec.number if args.dataset_id is None else args.dataset_id
    if number is not None:
        name = renamed(f"Dataset000_{spec.folder}", number)
        if spec.folder is not None:
            check_place(raw / name)
    return known


def _present(args: argparse.Namespace, raw: Path) -> Path | None:
    """The dataset of the number that is asked for, whatever it was made of."""
    from nnunet_mamba.study.datasets.specs import spec_of

    number = spec_of(args.name)[1].number if args.dataset_id is None else args.dataset_id
    found = raw.glob(f"Dataset{number:03d}_*/dataset.json") if number is not None else iter(())
    return next((file.parent for file in found), None)


def _convert(
    args: argparse.Namespace, known: str, source: Source, raw: Path, scratch: Path, folders: list[Path]
) -> int:
    from SimpleITK import ProcessObject

    from nnunet_mamba.study.datasets import convert as engine
    from nnunet_mamba.study.datasets.specs import DATASETS
    from nnunet_mamba.study.datasets.splits import LeakError, group_by, leaks, make_split

    if args.dataset_id is not None:
        source = replace(source, name=engine.renamed(source.name, args.dataset_id))
    engine.check_place(raw / source.name)
    group = group_by(source.notes.group)
    split = make_split(args.split, source, group, known, partial=args.partial)
    found = leaks(split, group)
    if found:
        raise LeakError(f"The split {args.split}", found)
    _say_plan(source, split, raw, DATASETS[known].published)
    if args.dry_run:
        from nnunet_mamba.study.datasets.source import summary

        for line in summary(source.faults):
            print(line)
        _say_files(engine.plan_files(source, split), [folder.resolve() for folder in folders])
        print("nothing was written; the same command without --dry-run converts")
        return 1 if source.faults else 0
    accept = {*args.accept, *DATASETS[known].accept}
    ProcessObject.SetGlobalWarningDisplay(False)  # of each of ACDC's files that its sform is odd
    done = engine.convert(
        source,
        raw / source.name,
        split,
        link=args.symlink,
        accept=accept,
        leave_out=args.leave_out_faulty,
        resize=tuple(args.resize) if args.resize else None,
        scratch=scratch,
        workers=args.workers,
        progress=_progress(),
    )
    _say_done(done, accept, DATASETS[known].accept)
    return 1 if {fault.kind for fault in done.faults} - accept else 0


def _list() -> int:
    from nnunet_mamba.study.datasets.specs import DATASETS
    from nnunet_mamba.study.datasets.splits import published

    for name, spec in DATASETS.items():
        number = f"Dataset{spec.number:03d}_{spec.folder}" if spec.number else "Dataset###_Name of the task"
        counts = ", ".join(f"{n} {part}" for part, n in spec.published.items())
        splits = ", ".join(published(name))
        print(f"{name:24s} {spec.title}")
        print(f"{'':24s} {number}" + (f"; {counts}" if counts else ""))
        print(f"{'':24s} from {spec.obtain}; {spec.licence}")
        if splits:
            print(f"{'':24s} splits: {splits}")
    return 0


def _say_plan(source: Source, split: Split, raw: Path, published: Mapping[str, int]) -> None:
    from nnunet_mamba.study.datasets.source import some

    print(f"{source.name} in {raw}: {len(source.labelled())} labelled cases, {len(source.cases)} in all")
    for role, n in published.items():
        found = sum(case.role == role for case in source.cases)
        if found != n:
            print(f"  note: {found} of the release's {n} {role} cases are here")
    sizes = [f"{len(fold.train)}/{len(fold.val)}" for fold in split.folds]
    print(f"  training/validation: {', '.join(sizes)}; kept for the test: {len(split.test)}")
    if source.strays:
        names = [file.name for file in source.strays]
        print(f"  note: {len(names)} images beside these were not taken: {some(names)}")


def _say_files(files: Iterable[tuple[Path, str]], folders: list[Path]) -> None:
    """The first files of each folder of nnU-Net's, and how many more it gets."""
    by_folder: dict[str, list[tuple[Path, str]]] = {}
    for file, target in files:
        by_folder.setdefault(target.partition("/")[0], []).append((file, target))
    for name, members in by_folder.items():
        for file, target in members[:SAMPLE]:
            top = next((folder.parent for folder in folders if file.is_relative_to(folder)), Path("/"))
            print(f"  {file.relative_to(top)} -> {target}")
        if len(members) > SAMPLE:
            print(f"  and {len(members) - SAMPLE} more files for {name}")


def _say_done(done: Converted, accept: set[str], usual: Collection[str]) -> None:
    """`usual`: kinds of faults that every copy of the data set has, which are only counted."""
    from nnunet_mamba.study.datasets.source import summary

    told = [fault for fault in done.faults if fault.kind not in usual]
    for line in summary(told, lambda fault: "accepted, " if fault.kind in accept else "left out, "):
        print(line)
    for kind in usual:
        n = sum(fault.kind == kind for fault in done.faults)
        print(f"  accepted, as every copy of this data set has it: {n} {kind}")
    n_training = len(done.source.labelled()) - len(done.split.test)
    n_test = len(done.source.cases) - n_training
    print(f"-> {done.folder}: {n_training} cases in imagesTr, {n_test} in imagesTs")
    number = int(done.folder.name[7:10])
    print(f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")


def _progress() -> Callable[[int, int], None]:
    """Says how far it is, ten times in all."""
    start, said = time.monotonic(), 0

    def tell(done: int, total: int) -> None:
        nonlocal said
        if done * 10 // total > said:
            said = done * 10 // total
            rate = done / max(time.monotonic() - start, 1e-9)
            print(f"  {done}/{total} cases, {rate:.1f} a second", flush=True)

    return tell
