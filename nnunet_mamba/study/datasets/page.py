"""The table of docs/datasets.md: python -m nnunet_mamba.study.datasets.page docs/datasets.md"""

import sys
from pathlib import Path

from nnunet_mamba.study.datasets.layout import shown
from nnunet_mamba.study.datasets.specs import DATASETS
from nnunet_mamba.study.datasets.splits import published

BEGIN, END = "<!-- {}: printed from specs.py -->\n", "<!-- end -->\n"


def table() -> str:
    """A row per data set."""
    rows = [
        "| `NAME` | data set | nnU-Net dataset | cases | licence | splits of its own | used by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, spec in DATASETS.items():
        number = f"{spec.number:03d}_{spec.folder}" if spec.number else "the task's"
        counts = ", ".join(f"{n} {part}" for part, n in spec.published.items())
        splits = ", ".join(f"`{split}`" for split in published(name))
        rows.append(
            f"| `{name}` | {spec.title} | {number} | {counts} | {spec.licence} | {splits} | {spec.papers} |"
        )
    return "\n".join(rows) + "\n"


def details() -> str:
    """Where each data set is obtained, what its release looks like, what is open."""
    pieces = []
    for name, spec in DATASETS.items():
        lines = [f"**`{name}`** {spec.obtain}."]
        for layout in spec.layouts:
            paths = {
                shown(pattern): None for part in layout for pattern in (part.images[0], part.label) if pattern
            }
            lines.append(f"- layout: {', '.join(f'`{path}`' for path in paths)}")
        if not spec.layouts:
            lines.append("- layout: a Decathlon task: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`")
        if spec.pixels.recode:
            recoded = ", ".join(f"{old} to {new}" for old, new in spec.pixels.recode.items() if old != new)
            lines.append(f"- label values: {recoded}")
        if spec.group:
            lines.append(f"- patients: `{spec.group}`")
        if spec.open_points:
            lines.append(f"- open: {spec.open_points}")
        pieces.append("\n".join(lines))
    return "\n\n".join(pieces) + "\n"


PIECES = {"table": table, "details": details}


def refreshed(page: str) -> str:
    """`page` with what is between its marks printed anew."""
    for name, printed in PIECES.items():
        head, rest = page.split(BEGIN.format(name))
        page = head + BEGIN.format(name) + printed() + END + rest.split(END, 1)[1]
    return page


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(refreshed(file.read_text()))
