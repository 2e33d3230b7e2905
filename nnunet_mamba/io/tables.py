"""Tables of text, for a terminal and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class BestCell(str):
    """Cell in bold."""

    is_best = True


@dataclass(frozen=True)
class Table:
    """Table whose first `n_text` columns hold text, the others numbers; `notes` stand below it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    n_text: int = 1
    notes: Sequence[str] = ()

    def render_text(self) -> str:
        """Return aligned columns, with the title above and the notes below."""
        lines = ["  ".join(cells).rstrip() for cells in self._align([self.header, *self.rows], 0)]
        return "\n".join([*filter(None, [self.title]), *lines, *self.notes])

    def render_markdown(self) -> str:
        """Return aligned columns between bars, without the title and the notes."""
        lines = [[_format_markdown_cell(cell) for cell in line] for line in (self.header, *self.rows)]
        header, *rows = self._align(lines, 3)
        rule = [
            "-" * len(cell) if i < self.n_text else "-" * (len(cell) - 1) + ":"
            for i, cell in enumerate(header)
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))

    def _align(self, lines: Sequence[Sequence[str]], narrowest: int) -> list[list[str]]:
        """Return the lines with cells as wide as their column: text to the left, numbers to the right."""
        widths = [max(narrowest, *map(len, column)) for column in zip(*lines, strict=True)]
        return [
            [
                cell.ljust(width) if i < self.n_text else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in lines
        ]


def escape_markdown(text: str) -> str:
    """Return the text on one line, without tags or emphasis."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"&(?=#?\w+;)", "&amp;", one_line)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line).replace("*", "\\*").replace("](", "]\\(")


def _format_markdown_cell(cell: str) -> str:
    text = escape_markdown(cell).replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, BestCell) else text
