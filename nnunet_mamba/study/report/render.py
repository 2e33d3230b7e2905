"""Document as HTML, one file that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_mamba.io.document import Block, Document

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
