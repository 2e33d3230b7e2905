"""A document as one HTML page that loads nothing, and as Markdown that reads well in a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from nnunet_mamba.study.report.document import (
    Best,
    Block,
    Code,
    Document,
    Figure,
    Folded,
    Key,
    Outlines,
    Picture,
    Points,
    Shaded,
    Table,
    Text,
)
from nnunet_mamba.study.report.figures import frame, key_numbers, section
from nnunet_mamba.study.report.style import STUDY_CSS

ROWS: dict[type, str] = {Figure: "figures", Picture: "pictures"}


def as_html(document: Document) -> str:
    parts = [f"<h1>{_text(document.title)}</h1>\n"]
    for each in document.sections:
        blocks = _html_blocks(each.blocks)
        parts.append(section(each.title, blocks) if each.title else blocks)
    return frame(document.title, f"<style>{STUDY_CSS}</style>\n{''.join(parts)}")


def _html_blocks(blocks: Sequence[Block]) -> str:
    """Figures that follow each other share a row where there is room, and so do pictures."""
    parts = []
    for rows, group in groupby(blocks, lambda block: ROWS.get(type(block))):
        text = "\n".join(_html(block) for block in group)
        parts.append(f'<div class="{rows}">{text}</div>' if rows else text)
    return "\n".join(parts) + "\n"


def _html(block: Block) -> str:
    escape = _text
    if isinstance(block, Text):
        return f'<p class="warn">{escape(block.text)}</p>' if block.warns else f"<p>{escape(block.text)}</p>"
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in block.texts) + "</ul>"
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Figure):
        svg = block.svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(block.alt)}"', 1)
        return f"<figure>{svg}<figcaption>{escape(block.alt)}</figcaption></figure>"
    if isinstance(block, Picture):
        panels = "".join(
            f'<div><img alt="{html.escape(name)}" src="{html.escape(uri)}">{escape(name)}</div>'
            for uri, name in block.panels
        )
        caption = f"<figcaption>{escape(block.caption)}</figcaption>"
        return f'<figure><div class="planes">{panels}</div>{caption}</figure>'
    if isinstance(block, Key):
        return key_numbers(block.numbers)
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Outlines):
        swatches = (
            f'<i class="swatch" style="background:{colour}"></i>{escape(name)}'
            for name, colour in block.colours
        )
        return f"<p>Outlines:{''.join(swatches)}</p>"
    return f"<details><summary>{escape(block.summary)}</summary>{_html_blocks(block.blocks)}</details>"


def _text(text: str) -> str:
    """Escaped; names may be broken after underscores."""
    return html.escape(text).replace("_", "_<wbr>")


def _html_table(table: Table) -> str:
    title = f"<h3>{_text(table.title)}</h3>" if table.title else ""
    head = "".join(f"<th{_class(i, table)}>{_text(cell)}</th>" for i, cell in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(_html_cell(cell, _class(i, table)) for i, cell in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
    return f'{title}<div class="scroll"><table>{inner}</table></div>'


def _class(column: int, table: Table) -> str:
    return ' class="t"' if column < table.n_text else ""


def _html_cell(cell: str, attributes: str) -> str:
    text = _text(cell)
    if isinstance(cell, Best):
        text = f"<b>{text}</b>"
    if isinstance(cell, Shaded):
        attributes = f' class="s" style="background:rgb(59 130 246/{0.65 * cell.share**0.5:.2f})"'
    return f"<td{attributes}>{text}</td>"


def as_markdown(document: Document) -> str:
    parts = [f"# {document.title}"]
    for each in document.sections:
        parts += [f"## {each.title}"] if each.title else []
        parts += _markdown_blocks(each.blocks)
    return "\n\n".join(parts) + "\n"


def _markdown_blocks(blocks: Iterable[Block]) -> list[str]:
    return [text for block in blocks for text in _markdown(block)]


def _markdown(block: Block) -> list[str]:
    """Figures, pictures and their legend are not told: the tables hold their numbers."""
    if isinstance(block, Text):
        return [f"> {_plain(block.text)}" if block.warns else _plain(block.text)]
    if isinstance(block, Points):
        return ["\n".join(f"* {_plain(text)}" for text in block.texts)]
    if isinstance(block, Table):
        title = [f"**{_plain(block.title)}**"] if block.title else []
        return [*title, "\n".join(_piped(block))]
    if isinstance(block, Key):
        return ["\n".join(f"* {_plain(name)}: {_plain(value)}" for name, value in block.numbers)]
    if isinstance(block, Code):
        return ["\n".join(f"    {line}" for line in block.text.splitlines())]
    if isinstance(block, Folded):
        return [f"### {_plain(block.summary)}", *_markdown_blocks(block.blocks)]
    if isinstance(block, Picture):
        return [_plain(block.caption)]
    return []


def _piped(table: Table) -> list[str]:
    """Columns aligned, so that it reads as a table without being rendered."""
    lines = [[_markdown_cell(cell) for cell in row] for row in (table.header, *table.rows)]
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


def _markdown_cell(cell: str) -> str:
    text = _plain(cell).replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Best) else text


def _plain(text: str) -> str:
    """Text that Markdown takes as it is: one line, no tags, no emphasis."""
    one_line = " ".join(text.split())
    one_line = re.sub(r"&(?=#?\w+;)", "&amp;", one_line)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line).replace("*", "\\*").replace("](", "]\\(")
