"""A report as blocks, before it is written as HTML or Markdown.

Cells of tables are text: `Best` is shown bold, `Shaded` with a background by its share. A figure and the
pictures are seen in HTML alone; what they show, tables tell as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Best(str):
    """A cell shown bold."""


class Shaded(str):
    """A cell with a background as strong as its share, 0 to 1."""

    share: float

    def __new__(cls, text: str, share: float) -> Shaded:
        cell = super().__new__(cls, text)
        cell.share = share
        return cell


@dataclass(frozen=True)
class Text:
    text: str
    warns: bool = False


@dataclass(frozen=True)
class Points:
    """A list."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Table:
    """`n_text` columns on the left hold text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    n_text: int = 1


@dataclass(frozen=True)
class Figure:
    """A chart as SVG; `alt` says what it shows."""

    svg: str
    alt: str


@dataclass(frozen=True)
class Picture:
    """Slices of a case, each a data URI and its name, with a caption below."""

    panels: Sequence[tuple[str, str]]
    caption: str


@dataclass(frozen=True)
class Key:
    """The numbers that matter most, each with its name."""

    numbers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Outlines:
    """The legend of the pictures: names and colours."""

    colours: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """Shown when asked for."""

    summary: str
    blocks: Sequence[Block]


Block = Text | Points | Table | Figure | Picture | Key | Code | Outlines | Folded


@dataclass(frozen=True)
class Section:
    """`title` is "" for the head of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    sections: Sequence[Section]
