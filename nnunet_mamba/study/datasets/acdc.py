"""ACDC's Info.cfg, which names the frames of a patient at end diastole (ED) and end systole (ES)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nnunet_mamba.study.datasets.source import Case, Issue, Source

PHASES = ("ED", "ES")


def select_phases(source: Source) -> Source:
    """Return the source with only the frames that Info.cfg names, and their phases in its notes.

    Submissions to the challenge are named by phase. A patient without a readable Info.cfg, or without a frame
    that it names, is an issue.
    """
    patients: dict[Path, list[Case]] = {}
    for case in source.cases:
        patients.setdefault(case.images[0].parent, []).append(case)
    phases: dict[str, str] = {}
    issues = []
    for folder, cases in patients.items():
        try:
            phases.update(dict(_read_phases(folder, {case.name for case in cases})))
        except ValueError as error:
            issues += [Issue("missing", case.name, str(error)) for case in cases]
    return replace(
        source,
        cases=tuple(case for case in source.cases if case.name in phases),
        issues=(*source.issues, *issues),
        notes=replace(source.notes, phases=dict(sorted(phases.items()))),
    )


def read_phases(folder: Path) -> dict[str, str]:
    """Return ED or ES for each frame that an Info.cfg in the release at `folder` names.

    ValueError if there is no such file.
    """
    found: dict[str, str] = {}
    for file in sorted(folder.rglob("Info.cfg")):
        names = {image.name.split(".", 1)[0] for image in file.parent.glob("*_frame*.nii*")}
        found.update(_read_phases(file.parent, names))
    if not found:
        raise ValueError(f"{folder} holds no Info.cfg; expected the release of ACDC.")
    return found


def _read_phases(folder: Path, names: set[str]) -> Iterator[tuple[str, str]]:
    """Yield frame and phase from a patient's Info.cfg; ValueError if a frame is not among `names`."""
    file = folder / "Info.cfg"
    if not file.is_file():
        raise ValueError(f"{file} is missing, which tells end diastole from end systole")
    entries = dict(
        line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    for phase in PHASES:
        frame = entries.get(phase, "").strip()
        name = f"{folder.name}_frame{frame.zfill(2)}"
        if not frame.isdecimal() or name not in names:
            raise ValueError(
                f"{file} names the frame {frame or 'nothing'} as {phase}, and no such frame is there"
            )
        yield name, phase
