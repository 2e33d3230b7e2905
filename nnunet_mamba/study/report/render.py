"""Document as HTML, one file that loads nothing, and as Markdown that reads well in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.io.tables import Table, escape_markdown
from nnunet_mamba.study.report.document import (
    Block,
    BulletList,
    CasePicture,
    CodeBlock,
    Collapsible,
    Document,
    KeyNumbers,
    Paragraph,
)

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
UNBREAKABLE = re.compile(r" (?=[±%[])|(?<=±) |(?<=, not) ")  # spaces


def render_html(document: Document) -> str:
    """Return the whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _allow_breaks, "by_kind": _group_by_kind}
    return environment.get_template("page.html.jinja").render(document=document)


def _allow_breaks(text: str) -> Markup:
    """Return escaped text whose lines may break after underscores, and not within a spread."""
    from markupsafe import Markup, escape

    return escape(UNBREAKABLE.sub("\u00a0", text)).replace("_", Markup("_<wbr>"))


def _group_by_kind(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Return adjacent blocks of one class together, with its name."""
    return [(kind, list(group)) for kind, group in groupby(blocks, lambda block: type(block).__name__)]


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
