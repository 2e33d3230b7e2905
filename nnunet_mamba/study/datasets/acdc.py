"""ACDC's Info.cfg: which frames of a patient are end diastole (ED) and end systole (ES)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.study.datasets.source import Case, Fault, Source

PHASES = ("ED", "ES")


def name_phases(source: Source) -> Source:
    """Keep the frames that Info.cfg names, and note the phase of each; challenge submissions are named so.

    A patient without a readable Info.cfg, or without the frame it names, is a fault.
    """
    patients: dict[Path, list[Case]] = {}
    for case in source.cases:
        patients.setdefault(case.images[0].parent, []).append(case)
    named: dict[str, str] = {}
    faults = []
    for folder, cases in patients.items():
        try:
            named.update(dict(_phases(folder, {case.name for case in cases})))
        except ValueError as error:
            faults += [Fault("missing", case.name, str(error)) for case in cases]
    return replace(
        source,
        cases=tuple(case for case in source.cases if case.name in named),
        faults=(*source.faults, *faults),
        notes=replace(source.notes, phases=dict(sorted(named.items()))),
    )


def phases_of_release(folder: Path) -> dict[str, str]:
    """Frame -> ED or ES, of every patient with an Info.cfg in the release at `folder`."""
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("Info.cfg")):
        names = {image.name.split(".", 1)[0] for image in file.parent.glob("*_frame*.nii*")}
        found.update(_phases(file.parent, names))
    if not found:
        raise ValueError(f"{folder} holds no Info.cfg; expected the release of ACDC.")
    return found


def _phases(folder: Path, names: set[str]) -> Iterator[tuple[str, str]]:
    file = folder / "Info.cfg"
    if not file.is_file():
        raise ValueError(f"{file} is missing, which tells end diastole from end systole")
    entries = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    for phase in PHASES:
        frame = entries.get(phase, "").strip()
        name = f"{folder.name}_frame{frame.zfill(2)}"
        if not frame.isdecimal() or name not in names:
            raise ValueError(
                f"{file} names the frame {frame or 'nothing'} as {phase}, and no such frame is there"
            )
        yield name, phase
