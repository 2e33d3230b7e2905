"""Markdown of a report that reads well in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nnunet_mamba.study.report.document import (
    BestCell,
    Block,
    BulletList,
    CasePicture,
    CodeBlock,
    Collapsible,
    Document,
    KeyNumbers,
    Paragraph,
    ReportTable,
)


def render_markdown(document: Document) -> str:
    """Return the whole text."""
    parts = [f"# {document.title}"]
    for section in document.sections:
        parts += [f"## {section.title}"] if section.title else []
        parts += _render_blocks(section.blocks)
    return "\n\n".join(parts) + "\n"


def _render_blocks(blocks: Iterable[Block]) -> list[str]:
    return [text for block in blocks for text in _render_block(block)]


def _render_block(block: Block) -> list[str]:
    """Return the block's paragraphs; charts have none, as tables hold their numbers."""
    if isinstance(block, Paragraph):
        return [f"> {_escape(block.text)}" if block.is_warning else _escape(block.text)]
    if isinstance(block, BulletList):
        return ["\n".join(f"* {_escape(text)}" for text in block.texts)]
    if isinstance(block, ReportTable):
        title = [f"**{_escape(block.title)}**"] if block.title else []
        return [*title, "\n".join(_align_columns(block))]
    if isinstance(block, KeyNumbers):
        return ["\n".join(f"* {_escape(name)}: {_escape(value)}" for name, value in block.numbers)]
    if isinstance(block, CodeBlock):
        return ["\n".join(f"    {line}" for line in block.text.splitlines())]
    if isinstance(block, Collapsible):
        return [f"### {_escape(block.summary)}", *_render_blocks(block.blocks)]
    if isinstance(block, CasePicture):
        return [_escape(block.caption)]
    return []


def _align_columns(table: ReportTable) -> list[str]:
    """Return the table's lines with aligned columns."""
    lines = [[_render_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    left = [i < table.n_text for i in range(len(widths))]
    rule = ["-" * w if is_left else "-" * (w - 1) + ":" for w, is_left in zip(widths, left, strict=True)]
    return [
        "| "
        + " | ".join(
            cell.ljust(w) if is_left else cell.rjust(w)
            for cell, w, is_left in zip(line, widths, left, strict=True)
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    ]


def _render_cell(cell: str) -> str:
    text = _escape(cell).replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, BestCell) else text


def _escape(text: str) -> str:
    """Return the text on one line, without tags or emphasis."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"&(?=#?\w+;)", "&amp;", one_line)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line).replace("*", "\\*").replace("](", "]\\(")
