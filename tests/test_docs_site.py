"""docs/ becomes a site without a broken link, a page out of the navigation, or Markdown left as text."""

import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]
# lists, tables, bold words and links that were no such to Python-Markdown; one line with a star is a footnote
LEFT_OVER = re.compile(r"^ *(- \w.*|\* .*\n *\* .*|\|.+\|)$|\*\*\w[^*]*\*\*|\]\(\S+", re.MULTILINE)


def build_site(folder: Path, **changes) -> Path:
    """Build as `mkdocs build --strict` does. Raises Abort if there was a warning."""
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder / "site"), **changes)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder / "site"


@pytest.fixture
def copied_docs(tmp_path) -> Path:
    """A small docs/ beside a file, and a function of the configuration: two pages, one in the navigation."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "script.py").touch()
    (docs / "index.md").write_text("# Home\n\n[a script](../script.py), [here](#home)\n")
    return docs


def build_pages(docs: Path) -> Path:
    return build_site(docs.parent, docs_dir=str(docs), nav=["index.md"], plugins=[])


def test_the_site_builds_strictly(tmp_path):
    site = build_site(tmp_path)
    pages = sorted(site.rglob("index.html"))
    assert len(pages) == len(list((ROOT / "docs").rglob("*.md")))
    assert not (site / "site_hooks.py").exists()
    for page in pages:
        article = page.read_text().split("<article", 1)[1].split("</article>", 1)[0]
        prose = re.sub(r"<(pre|code|svg)\b.*?</\1>", "x", article, flags=re.DOTALL)
        found = LEFT_OVER.search(unescape(re.sub(r"<[^>]+>", "", prose)))
        assert not found, f"{page.relative_to(site)}: {found and found[0]!r}"
    api = (site / "api" / "networks" / "index.html").read_text()
    assert "create_network" in api and "features_per_stage" in api


def test_links_out_of_docs_lead_to_this_version_in_the_repository(copied_docs):
    from nnunet_mamba import __version__

    url = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["repo_url"]
    home = (build_pages(copied_docs) / "index.html").read_text()
    assert f'href="{url}/blob/v{__version__}/script.py"' in home


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[x](../gone.py)", "index.md links to ../gone.py, which is no file of the repository"),
        ("[x](../../outside)", "index.md links to ../../outside, which is no file of the repository"),
        ("[x](gone.md)", "'gone.md'"),
        ("[x](index.md#gone)", "'index.md#gone'"),
    ],
)
def test_a_broken_link_ends_the_build(copied_docs, caplog, text, named):
    (copied_docs / "index.md").write_text(f"# Home\n\n{text}\n")
    with pytest.raises(Abort):
        build_pages(copied_docs)
    assert named in caplog.text


def test_a_page_out_of_the_navigation_ends_the_build(copied_docs, caplog):
    (copied_docs / "forgotten.md").write_text("# Forgotten\n")
    with pytest.raises(Abort):
        build_pages(copied_docs)
    assert "forgotten.md" in caplog.text
