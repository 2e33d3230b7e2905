"""HTML of the pages: one file each that loads nothing, light or dark as the reader's system has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from nnunet_mamba.study.report.document import (
    BestCell,
    Block,
    BulletList,
    CasePicture,
    Chart,
    CodeBlock,
    Document,
    KeyNumbers,
    OutlineLegend,
    Paragraph,
    ReportTable,
    ShadedCell,
)

GRID_CLASSES: dict[type, str] = {Chart: "figures", CasePicture: "pictures"}


def render_html(document: Document) -> str:
    """Return the whole page."""
    parts = [f"<h1>{_escape(document.title)}</h1>\n"]
    for section in document.sections:
        blocks = _render_blocks(section.blocks)
        parts.append(build_section(section.title, blocks) if section.title else blocks)
    return build_page(document.title, f"<style>{STUDY_CSS}</style>\n{''.join(parts)}")


def build_page(title: str, body: str) -> str:
    """Return a whole page with the given body, which is HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{CSS}</style></head>\n<body>\n{body}</body></html>\n"
    )


def build_section(title: str, *parts: str) -> str:
    """Return a section; the parts are HTML."""
    return f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n"


def build_key_numbers(numbers: Iterable[tuple[str, str]]) -> str:
    """Return (name, number) pairs as boxes."""
    boxes = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in numbers
    )
    return f'<div class="key">{boxes}</div>\n'


def build_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are text."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _render_blocks(blocks: Sequence[Block]) -> str:
    """Return the blocks; adjacent charts share a row where there is room, and so do pictures."""
    parts = []
    for css_class, group in groupby(blocks, lambda block: GRID_CLASSES.get(type(block))):
        text = "\n".join(_render_block(block) for block in group)
        parts.append(f'<div class="{css_class}">{text}</div>' if css_class else text)
    return "\n".join(parts) + "\n"


def _render_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        css_class = ' class="warn"' if block.is_warning else ""
        return f"<p{css_class}>{_escape(block.text)}</p>"
    if isinstance(block, BulletList):
        return "<ul>" + "".join(f"<li>{_escape(text)}</li>" for text in block.texts) + "</ul>"
    if isinstance(block, ReportTable):
        return _render_table(block)
    if isinstance(block, Chart):
        svg = block.svg.replace("<svg", f'<svg role="img" aria-label="{escape(block.alt)}"', 1)
        return f"<figure>{svg}<figcaption>{_escape(block.alt)}</figcaption></figure>"
    if isinstance(block, CasePicture):
        panels = "".join(
            f'<div><img alt="{escape(name)}" src="{escape(uri)}">{_escape(name)}</div>'
            for uri, name in block.panels
        )
        caption = f"<figcaption>{_escape(block.caption)}</figcaption>"
        return f'<figure><div class="planes">{panels}</div>{caption}</figure>'
    if isinstance(block, KeyNumbers):
        return build_key_numbers(block.numbers)
    if isinstance(block, CodeBlock):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, OutlineLegend):
        swatches = (
            f'<i class="swatch" style="background:{colour}"></i>{_escape(name)}'
            for name, colour in block.colours
        )
        return f"<p>Outlines:{''.join(swatches)}</p>"
    return f"<details><summary>{_escape(block.summary)}</summary>{_render_blocks(block.blocks)}</details>"


def _escape(text: str) -> str:
    """Return escaped text whose names may be wrapped after underscores."""
    return escape(text).replace("_", "_<wbr>")


def _render_table(table: ReportTable) -> str:
    title = f"<h3>{_escape(table.title)}</h3>" if table.title else ""
    head = "".join(f"<th{_class(i, table)}>{_escape(cell)}</th>" for i, cell in enumerate(table.header))
    rows = "".join(
        "<tr>" + "".join(_render_cell(cell, _class(i, table)) for i, cell in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>"
    return f'{title}<div class="scroll"><table>{inner}</table></div>'


def _class(column: int, table: ReportTable) -> str:
    return ' class="t"' if column < table.n_text else ""


def _render_cell(cell: str, attributes: str) -> str:
    text = _escape(cell)
    if isinstance(cell, BestCell):
        text = f"<b>{text}</b>"
    if isinstance(cell, ShadedCell):
        attributes = f' class="s" style="background:rgb(59 130 246/{0.65 * cell.share**0.5:.2f})"'
    return f"<td{attributes}>{text}</td>"


CSS = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --card: #f6f8fa;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161c; --ink: #e6eaf0; --soft: #9aa5b4; --line: #2b333e; --card: #1a2028; }
}
body {
  margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem;
  background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 {
  font-size: 1.15rem; margin: 2.4rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line);
}
p, figcaption { color: var(--soft); margin: .4rem 0; }
.key {
  display: grid; gap: .7rem; margin: 1.4rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
}
.key div {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem .9rem;
}
.key b { display: block; font-size: 1.3rem; overflow-wrap: anywhere; }
.key span { display: block; color: var(--soft); font-size: .85rem; line-height: 1.3; }
.scroll { /* a shadow on the right for as long as there is more to see */
  overflow-x: auto;
  background:
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
    linear-gradient(to left, #7c879699, transparent) right / .8rem 100% no-repeat scroll;
}
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td {
  padding: .35rem 0 .35rem 1.4rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
figure { margin: 1rem 0 1.8rem; }
.planes { display: flex; flex-wrap: wrap; gap: .5rem; }
.planes div {
  background: #000; color: #9aa5b4; border-radius: .5rem; padding: .5rem .5rem .2rem;
  font-size: .8rem; text-align: center; display: flex; flex-direction: column;
  justify-content: space-between;
}
.planes img { display: block; height: auto; max-width: 100%; margin: auto; }
.swatch {
  display: inline-block; width: 1.3em; height: .28em; border-radius: 1px;
  vertical-align: middle; margin: 0 .4em 0 .9em;
}
svg { width: 100%; height: auto; }
.figures {
  display: grid; gap: .6rem 1.6rem; align-items: start; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
}
.figures figure { margin: 0; max-width: 32rem; break-inside: avoid; }
.figures figcaption { font-size: .85rem; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem; overflow-x: auto; font: 13px/1.5 ui-monospace, monospace;
}
summary { cursor: pointer; color: var(--soft); margin: .6rem 0; }
@media (max-width: 40rem) {
  body { padding: 1.2rem .9rem 3rem; font-size: 15px; }
  h1 { font-size: 1.35rem; }
  .key { grid-template-columns: repeat(auto-fit, minmax(6.5rem, 1fr)); gap: .5rem; }
  .key b { font-size: 1.05rem; }
  th, td { font-size: .86rem; padding-left: .8rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .planes { flex-wrap: nowrap; } .figures { grid-template-columns: 1fr 1fr 1fr; }
  .scroll { overflow: visible; } pre { white-space: pre-wrap; }
}
"""

# added on the page about a study
STUDY_CSS = """
body { max-width: 70rem; }
ul { padding-left: 1.2rem; } li { margin: .3rem 0; overflow-wrap: anywhere; }
h1 + ul { font-size: 1.05rem; }
section > ul li { color: var(--soft); font-size: .92rem; }
.warn {
  background: #f59e0b22; border-left: 3px solid #f59e0b; border-radius: .3rem;
  color: inherit; padding: .5rem .8rem;
}
.figures { grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.pictures {
  display: grid; gap: 0 1.6rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 31rem), 1fr));
}
table { margin: .8rem 0; min-width: 0; }
h3 { font-size: 1rem; margin: 1.4rem 0 -.4rem; }
th { vertical-align: bottom; white-space: normal; }
td.s { padding-right: .5rem; }
td b {
  white-space: nowrap; background: #10b98126; border-radius: .25rem;
  padding: .1rem .3rem; margin: 0 -.3rem;
}
th, td { font-size: .92rem; padding-left: 1.1rem; }
th.t, td.t { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); padding-right: .4rem; }
.planes div { flex: 0 1 auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  th, td { font-size: .86rem; padding-left: .8rem; }
  th:first-child, td:first-child { white-space: normal; overflow-wrap: break-word; max-width: 9rem; }
}
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #333; --line: #bbb; --card: #fff; }
  section { break-before: auto; }
  th, td { white-space: normal; font-size: 8.5pt; padding-left: .7rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  details::details-content { content-visibility: visible; block-size: auto; }
  details > :not(summary) { display: block; }
}
"""
