"""Table and details of docs/datasets.md: python -m nnunet_mamba.study.datasets.page docs/datasets.md"""

import sys
from pathlib import Path

from nnunet_mamba.study.datasets.layout import describe_pattern
from nnunet_mamba.study.datasets.specs import DATASETS
from nnunet_mamba.study.datasets.splits import get_published_splits

BEGIN, END = "<!-- {}: printed from specs.py -->\n", "<!-- end -->\n"


def format_table() -> str:
    """Return a table in Markdown, a row per data set."""
    rows = [
        "| `NAME` | data set | nnU-Net dataset | cases | licence | splits of its own | used by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, spec in DATASETS.items():
        number = f"{spec.number:03d}_{spec.folder}" if spec.number else "the task's"
        counts = ", ".join(f"{n} {part}" for part, n in spec.published.items())
        splits = ", ".join(f"`{split}`" for split in get_published_splits(name))
        rows.append(
            f"| `{name}` | {spec.title} | {number} | {counts} | {spec.licence} | {splits} | {spec.papers} |"
        )
    return "\n".join(rows) + "\n"


def format_details() -> str:
    """Return a paragraph per data set: where it is obtained, its release's layout, and open points."""
    pieces = []
    for name, spec in DATASETS.items():
        lines = [f"**`{name}`** {spec.obtain}.", ""]  # Markdown's lists begin after an empty line
        for layout in spec.layouts:
            patterns = [pattern for part in layout for pattern in (part.images[0], part.label) if pattern]
            paths = dict.fromkeys(map(describe_pattern, patterns))
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


PIECES = {"table": format_table, "details": format_details}


def update_page(page: str) -> str:
    """Return `page` with the text between its marks printed anew."""
    for name, format_piece in PIECES.items():
        head, rest = page.split(BEGIN.format(name))
        page = head + BEGIN.format(name) + format_piece() + END + rest.split(END, 1)[1]
    return page


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(update_page(file.read_text(encoding="utf-8")), encoding="utf-8")
