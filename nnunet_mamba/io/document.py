"""Document as blocks, and as Markdown that reads well in a terminal.

Charts and pictures are in the HTML only; their numbers are in the tables too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_mamba.io.tables import Table, escape_markdown


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


def render_markdown(document: Document) -> str:
    """Return the whole text."""
    parts = [f"# {escape_markdown(document.title)}"]
    for section in document.sections:
        parts += [f"## {escape_markdown(section.title)}"] if section.title else []
        parts += _render_blocks(section.blocks)
    return "\n\n".join(parts) + "\n"


def _render_blocks(blocks: Iterable[Block]) -> list[str]:
    return [text for block in blocks for text in _render_block(block)]


def _render_block(block: Block) -> list[str]:
    """Return the block's paragraphs; charts have none, as tables hold their numbers."""
    if isinstance(block, Paragraph):
        return [("> " if block.is_warning else "") + escape_markdown(block.text)]
    if isinstance(block, BulletList):
        return [_render_list(block.texts)]
    if isinstance(block, Table):
        title = [f"**{escape_markdown(block.title)}**"] if block.title else []
        return [*title, block.render_markdown(), *map(escape_markdown, block.notes)]
    if isinstance(block, KeyNumbers):
        return [_render_list(f"{name}: {value}" for name, value in block.numbers)]
    if isinstance(block, CodeBlock):
        return ["\n".join(f"    {line}" for line in block.text.splitlines())]
    if isinstance(block, Collapsible):
        return [f"### {escape_markdown(block.summary)}", *_render_blocks(block.blocks)]
    return [escape_markdown(block.caption)] if isinstance(block, CasePicture) else []


def _render_list(texts: Iterable[str]) -> str:
    return "\n".join(f"* {escape_markdown(text)}" for text in texts)
