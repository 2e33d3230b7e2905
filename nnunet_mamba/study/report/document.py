"""Report as blocks, before it is written as HTML or Markdown.

Charts and pictures are in the HTML only; their numbers are in the tables too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_mamba.io.tables import Table


class ShadedCell(str):
    """Cell with a background as strong as its share, 0 to 1."""

    share: float

    def __new__(cls, text: str, share: float) -> ShadedCell:
        cell = super().__new__(cls, text)
        cell.share = share
        return cell


@dataclass(frozen=True)
class Paragraph:
    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class BulletList:
    texts: Sequence[str]


@dataclass(frozen=True)
class Chart:
    """Chart as SVG with a caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class CasePicture:
    """Slices of a case, each a data URI and its name, above a caption."""

    panels: Sequence[tuple[str, str]]
    caption: str


@dataclass(frozen=True)
class KeyNumbers:
    """Pairs of name and number, shown large."""

    numbers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class CodeBlock:
    text: str


@dataclass(frozen=True)
class OutlineLegend:
    """Legend of the pictures: names and colours."""

    colours: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Collapsible:
    """Blocks below a summary that the reader opens."""

    summary: str
    blocks: Sequence[Block]


Block = (
    Paragraph
    | BulletList
    | Table
    | Chart
    | CasePicture
    | KeyNumbers
    | CodeBlock
    | OutlineLegend
    | Collapsible
)


@dataclass(frozen=True)
class Section:
    """Blocks below a title, which is "" for the head of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    sections: Sequence[Section]
