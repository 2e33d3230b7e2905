import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from page_reader import read
from tiny_study import tiny_scores

from nnunet_mamba.io.document import render_markdown
from nnunet_mamba.study.report import ReportRequest, build_document, collect_study_report
from nnunet_mamba.study.report.render import render_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1000, 1280)
PROBE = """<script>onload = () => {
  const all = selector => [...document.querySelectorAll(selector)], page = document.documentElement;
  document.title = JSON.stringify({
    pictures: all("img").filter(e => e.naturalWidth > 0).length,
    charts: all("section > .charts svg").filter(e => e.getBoundingClientRect().height > 60).length,
    cut: page.scrollWidth - page.clientWidth,
    scrolling: all(".scroll").filter(e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth).length,
  });
}</script></body>"""


@pytest.fixture(scope="module")
def documents(simulated_document, single_report):
    return {"several": simulated_document, "single": build_document(single_report)}


@pytest.mark.parametrize("name", ["several", "single"])
def test_the_page_loads_nothing_and_nests(documents, name):
    page = render_html(documents[name])
    assert all(value.startswith(("data:", "#")) for value in read(page).loaded)
    assert "@import" not in page and "<script" not in page and not re.search(r"url\((?!#)", page)


@pytest.mark.parametrize("name", ["several", "single"])
def test_page_and_markdown_have_the_same_tables_and_sections(documents, name):
    page, text = render_html(documents[name]), render_markdown(documents[name])
    assert re.findall(r"<h2>(.*?)</h2>", page) == re.findall(r"^## (.*)$", text, re.M)
    rows = [line for line in text.splitlines() if line.startswith("| ") and not set(line) <= set("|- :")]
    assert page.count("<tr>") == len(rows) > 30


def test_numbers_of_the_tables_stand_on_the_page_and_in_markdown(tiny):
    document = build_document(tiny)
    page, text = render_html(document), render_markdown(document)
    assert "<b>0.8000\u00a0±\u00a00.0283</b>" in page and "**0.8000 ± 0.0283**" in text
    verdict = "MMUNet is better than its twin without SSM, MMUNet_NoSSM: Dice +0.0500"
    assert verdict in "".join(read(page).text) and verdict in text
    assert "<td>0.7000\u00a0±\u00a00.0283</td>" in page and "| 0.7000 ± 0.0283 |" in " ".join(text.split())


def test_names_are_text_and_not_markup(write_scores):
    nasty = r"<script>alert(1)</script> & |x| $\frac$"
    scores = [replace(s, label_name=nasty if s.label == "1" else "b") for s in tiny_scores()]
    report = collect_study_report(ReportRequest([write_scores(scores)], n_bootstrap=200, note="<b>bold</b>"))
    document = build_document(report)
    page, text = render_html(document), render_markdown(document)
    assert "<script" not in page and nasty in "".join(read(page).text)
    assert "<b>bold" not in page
    assert "<script" not in text and "\\|x\\|" in text


def test_markdown_tables_are_aligned(documents):
    for block in render_markdown(documents["several"]).split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_every_figure_and_table_without_a_word_of_complaint(documents, tmp_path):
    """On a phone tables may be wider than the page, within a frame that scrolls."""
    pages = {name: render_html(document) for name, document in documents.items()}
    frames = []
    for name, page in pages.items():
        file = tmp_path / f"{name}.html"
        file.write_text(page.replace("</body>", PROBE), encoding="utf-8")
        # a window has a least width, a frame has none
        frames += [f'<iframe src="{file.as_uri()}" width={width} height=900></iframe>' for width in WIDTHS]
    collect = (
        "<script>onload=()=>setTimeout(()=>document.title="
        "'['+[...document.querySelectorAll('iframe')].map(f=>f.contentDocument.title)+']',200)</script>"
    )
    (tmp_path / "frames.html").write_text("".join(frames) + collect)
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
        "--dump-dom", (tmp_path / "frames.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    found = iter(json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    for page in pages.values():
        n_charts = len(re.findall(r"<svg", re.sub(r"<details>.*?</details>", "", page, flags=re.S)))
        for width in WIDTHS:
            shown = next(found)
            assert (shown["pictures"], shown["charts"], shown["cut"]) == (page.count("<img "), n_charts, 0)
            assert width < 1000 or shown["scrolling"] == 0
    assert [page.count("<img ") for page in pages.values()] == [15, 9]
