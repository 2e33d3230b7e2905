import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from page_reader import read
from simulated_study import LABELS
from tiny_study import tiny_scores

from nnunet_mamba.study.report import ReportRequest, build_document, collect_study_report, write_study_report
from nnunet_mamba.study.report.html import render_html
from nnunet_mamba.study.report.markdown import render_markdown

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def document(simulated_report):
    return build_document(simulated_report)


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_loads_nothing_and_nests(document):
    page = render_html(document)
    assert all(value.startswith(("data:", "#")) for value in read(page).loaded)
    assert "@import" not in page and "<script" not in page and not re.search(r"url\((?!#)", page)


def test_all_sections_are_there_in_order(document):
    assert headings(render_html(document)) == [
        "Results", "Differences", "Labels", "Beside the papers", "Training", "Worst cases",
        "Confusion of labels", "Made from",
    ]  # fmt: skip


def test_without_results_their_sections_are_left_out_and_it_is_said(tiny):
    page = render_html(build_document(tiny))
    assert headings(page) == [
        "Results",
        "Differences",
        "Labels",
        "Made from",
    ]  # nor do papers know the dataset
    assert "Training, worst cases, confusion of labels: give --results." in page


def test_a_single_label_has_no_section_of_labels(write_scores):
    one = [s for s in tiny_scores() if s.label == "1"]
    report = collect_study_report(ReportRequest([write_scores(one)], n_bootstrap=200))
    assert headings(render_html(build_document(report))) == ["Results", "Differences", "Made from"]


def test_results_without_label_maps_still_show_the_training(simulated, tmp_path):
    table, results = simulated
    alone = tmp_path / results.name
    shutil.copytree(results, alone, ignore=shutil.ignore_patterns("*.nii.gz"))
    report = collect_study_report(ReportRequest([table], results=alone, n_bootstrap=200))
    assert report.files is None and len(report.training_runs) == 25
    assert any(line.startswith("Worst cases, confusion of labels:") for line in report.left_out)


def test_numbers_of_the_tables_stand_on_the_page_and_in_markdown(tiny):
    document = build_document(tiny)
    page, text = render_html(document), render_markdown(document)
    assert "<b>0.8000 ± 0.0283</b>" in page and "**0.8000 ± 0.0283**" in text
    assert "MMUNet is better than its twin without SSM (MMUNet_NoSSM): Dice +0.0500" in "".join(
        read(page).text
    )
    assert "<td>0.7000 ± 0.0283</td>" in page and "| 0.7000 ± 0.0283 |" in " ".join(text.split())


def test_names_are_text_and_not_markup(write_scores):
    nasty = r"<script>alert(1)</script> & |x| $\frac$"
    scores = [replace(s, label_name=nasty if s.label == "1" else "b") for s in tiny_scores()]
    report = collect_study_report(ReportRequest([write_scores(scores)], n_bootstrap=200, note="<b>bold</b>"))
    document = build_document(report)
    page, text = render_html(document), render_markdown(document)
    assert "<script" not in page and nasty in "".join(read(page).text)
    assert "<b>bold" not in page
    assert "<script" not in text and "\\|x\\|" in text


def test_the_same_input_gives_the_same_bytes(simulated_report, tmp_path):
    for name in ("a", "b"):
        write_study_report(simulated_report, tmp_path / name)
    assert [f.name for f in sorted((tmp_path / "a").iterdir())] == ["report.html", "report.md"]
    for file in ("report.html", "report.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_papers_numbers_come_with_what_forbids_comparing(document):
    text = render_markdown(document)
    assert "None of these papers' numbers was made as the numbers here were" in text
    assert "Not comparable: 200 cases, here 20." in text  # nnU-Net Revisited's cross-validation
    assert "0.9179 [1]" in text  # U-Mamba Bot


def test_worst_cases_and_files_are_told(document, simulated_report):
    text = render_markdown(document)
    method = simulated_report.methods["VMUNet"]
    pictured = set(simulated_report.files.maps[method])
    means = {}
    for s in simulated_report.select_scores(method, "dice"):
        if s.case in pictured:
            means[s.case] = means.get(s.case, 0) + s.value / len(LABELS)
    worst = min(means, key=means.get)
    assert f"VMUNet, {worst}: Dice {means[worst]:.3f} (" in text
    assert "secret" not in render_html(document)  # the machine's name in debug.json


def test_markdown_tables_are_aligned(document):
    for block in render_markdown(document).split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_figure_without_a_word_of_complaint(document, tmp_path, width):
    page = render_html(document)
    probe = (
        "<script>onload=()=>{const box=e=>e.getBoundingClientRect();document.title=JSON.stringify({"
        "images:[...document.images].filter(i=>i.naturalWidth>0).length,"
        "charts:[...document.querySelectorAll('section>.figures svg')].filter(s=>box(s).height>60).length,"
        "overflow:document.documentElement.scrollWidth-document.documentElement.clientWidth})}</script>"
    )
    file, frame = tmp_path / "report.html", tmp_path / "frame.html"
    file.write_text(page.replace("</body>", probe + "</body>"), encoding="utf-8")
    frame.write_text(  # a window has a least width, a frame has none
        f'<iframe id=f src="{file.as_uri()}" width={width} height=900></iframe>'
        "<script>f.onload=()=>setTimeout(()=>document.title=f.contentDocument.title,200)</script>"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000",
        "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stdout[:500]
    shown = {key: int(n) for key, n in re.findall(r'"(\w+)":(-?\d+)', found[1])}
    n_pictures = page.count("<img ")
    n_charts = len(re.findall(r"<svg", re.sub(r"<details>.*?</details>", "", page, flags=re.S)))
    assert shown == {"images": n_pictures, "charts": n_charts, "overflow": 0}
    assert n_pictures == 15 and n_charts >= 9
