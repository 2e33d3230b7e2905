"""What people and programs get to read."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_mamba.cli import main
from nnunet_mamba.study.evaluation import write_table
from nnunet_mamba.study.statistics import as_markdown, as_text, compare, write_results
from nnunet_mamba.study.statistics.output import as_json


@pytest.fixture
def studies(acdc):
    return compare(acdc, group=r"patient\d+", n_bootstrap=200)


def test_the_terminal_gets_the_twins_first_and_plain_words(studies):
    text = as_text(studies)
    assert text.index("Dice against the twin without SSM") < text.index("Dice against the baseline")
    assert "MMUNet is not shown to differ from its twin without SSM, MMUNetNoSSM: Dice +0.00" in text
    assert "\nMMUNet is better than nnUNet: Dice +" in text
    assert "\nVMUNet is worse than nnUNet: Dice −" in text
    said = {line.split(": ")[0]: line.split("; ")[-1] for line in text.splitlines() if " nnUNet: " in line}
    assert said["MMUNet is better than nnUNet"] == "of 3 labels 3 better, 0 worse."
    assert said["VMUNet is worse than nnUNet"] == "of 3 labels 0 better, 3 worse."
    assert "120 cases of 60 patients, 3 labels" in text
    assert max(map(len, text.splitlines())) < 180


def test_no_difference_shown_is_never_called_equality(studies):
    for text in (as_text(studies), as_markdown(studies)):
        assert not any(
            word in text.lower() for word in ("equal", "same as", "identical", "no difference between")
        )


def test_markdown_has_every_label_of_every_pair(studies):
    lines = as_markdown(studies).splitlines()
    rows = [line for line in lines if line.startswith("| ") and "organ" in line]
    assert len(rows) == (1 + 3) * 3
    tables = [line.count("|") for line in lines if line.startswith("|")]
    assert set(tables) == {6, 14, 13, 5, 7}


def test_names_are_text_and_not_markup(make_scores):
    nasty = "<script>x</script>*a*"
    values = {f"case_{i}": [0.5, 0.6] for i in range(8)}
    scores = [s for name in (nasty, "B") for s in make_scores(name, values)]
    scores = [replace(s, dataset=nasty, protocol=nasty, label_name=nasty) for s in scores]
    text = as_markdown(compare(scores, n_bootstrap=100))
    assert "<script" not in text and "*a*" not in text and r"&lt;script>x&lt;/script>\*a\*" in text


def test_folds_are_counted_in_the_direction_of_the_metric(make_scores):
    cases = [f"case_{i}" for i in range(8)]
    folds = {case: str(i // 2) for i, case in enumerate(cases)}
    far = dict.fromkeys(cases, 4.0)
    near = {case: 2.0 + i for i, case in enumerate(cases)}  # farther in the last three folds
    scores = [
        s
        for trainer, values in (("nnUNetTrainer", far), ("nnUNetTrainerA", near))
        for s in make_scores(trainer, values, folds=folds, metric="hd95")
    ]
    text = as_text(compare(scores, metric="hd95", n_bootstrap=100))
    assert "hd95 (lower is better)" in text
    table = [line.split() for line in text.splitlines()]
    at = table.index(["Methods"])
    assert [row[:2] for row in table[at + 2 : at + 4]] == [
        ["nnUNet", "4.00"],
        ["A", "5.50"],
    ]  # the best first
    assert "SD over folds 2.58 and 0.00." in text  # of 2.5, 4.5, 6.5, 8.5, and of 4
    assert [row[-2] for row in table if row[:4] == ["A", "nnUNet", "not", "better"]] == ["1/4"]


def test_too_few_pairs_are_said_to_be_so(make_scores):
    cases = {f"case_{i}": 0.5 for i in range(5)}
    better = {case: value + 0.1 for case, value in cases.items()}
    text = as_text(
        compare(make_scores("nnUNetTrainer", cases) + make_scores("nnUNetTrainerA", better), n_bootstrap=100)
    )
    assert "warning: 5 pairs; with fewer than 6 no outcome of the test is significant" in text
    assert "warning: fewer than 20 patients: the intervals are too narrow" in text
    assert "5 pairs are too few to tell A from nnUNet: Dice +0.1000" in text


@pytest.mark.parametrize(("n", "warned"), [(6, ["fewer than 20"]), (19, ["fewer than 20"]), (20, [])])
def test_six_pairs_can_show_a_difference_and_twenty_patients_have_an_interval(make_scores, n, warned):
    scores = [s for name in "AB" for s in make_scores(name, {f"case_{i}": 0.5 for i in range(n)})]
    (study,) = compare(scores, n_bootstrap=100)
    assert [text[:13] for text in study.warnings] == warned


def test_an_organ_found_by_one_alone_is_said_to_be_left_out(make_scores):
    base = {f"case_{i}": [0.5, 0.5] for i in range(6)}
    other = {**base, "case_0": [0.6, float("nan")]}
    text = as_text(
        compare(make_scores("nnUNetTrainer", base) + make_scores("nnUNetTrainerA", other), n_bootstrap=100)
    )
    assert "warning: up to 1 values left out where one method alone found a label that is not there" in text


def test_a_folder_gets_three_files(studies, tmp_path):
    files = write_results(studies, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["comparison.md", "comparison.json", "comparison.csv"]
    assert sorted(file.name for file in files[0].parent.iterdir()) == sorted(file.name for file in files)
    (study,) = json.loads(files[1].read_text())
    assert study["comparisons"][0]["verdict"] == "not better"
    rows = list(csv.DictReader(files[2].open()))
    assert len(rows) == 4 * 120
    assert rows[0].keys() == {"task", "alg_name", "case", "value"}
    assert {row["alg_name"] for row in rows} == {"nnUNet", "MMUNet", "MMUNetNoSSM", "VMUNet"}
    means = {(row["alg_name"], row["case"]): float(row["value"]) for row in rows}
    assert means["MMUNet", "patient059_frame12"] == studies[0].case_means["MMUNet"]["patient059_frame12"]


def test_tests_that_were_not_made_do_not_count_in_the_family(make_scores):
    """Of two labels one is nowhere."""
    values = {f"case_{i}": [0.5, float("nan")] for i in range(6)}
    scores = [s for name in "AB" for s in make_scores(name, values)]
    text = as_markdown(compare(scores, n_bootstrap=100))
    assert text.count("(Holm over 1 test)") == 2  # of case means, and of labels


def test_what_is_not_defined_is_null_in_json(make_scores, tmp_path):
    scores = make_scores("A", {"x": 0.5}) + make_scores("B", {"x": 0.6})
    (file,) = write_results(compare(scores, n_bootstrap=100), tmp_path / "one.json")
    assert json.loads(file.read_text())[0]["comparisons"][0]["ci_low"] is None


def test_other_endings_are_refused(studies, tmp_path):
    with pytest.raises(ValueError, match=r"should be a folder, or end in \.md, \.json, \.csv"):
        write_results(studies, tmp_path / "x.html")


def test_the_command(acdc, tmp_path, capsys):
    tables = [tmp_path / "a.csv", tmp_path / "b.parquet"]
    write_table(acdc[:360], tables[0])
    write_table(acdc[360:], tables[1])
    command = ["compare", *map(str, tables), "--group", r"patient\d+", "--n-bootstrap", "200"]
    assert main([*command, "--baseline", "VMUNet", "--out", str(tmp_path / "c.md")]) == 0
    out = capsys.readouterr().out
    assert "nnUNet is better than VMUNet" in out
    assert out.endswith(f"-> {tmp_path / 'c.md'}\n")
    assert Path(tmp_path / "c.md").read_text().startswith("# Comparison of methods")


def test_tables_of_no_method_are_named_by_their_files(make_scores, tmp_path, capsys):
    values = {f"case_{i}": 0.5 + i / 100 for i in range(8)}
    for name, gain in (("mine", 0.1), ("theirs", 0.0)):
        scores = make_scores(
            "", {c: v + gain for c, v in values.items()}, plans="", configuration="", fold=""
        )
        write_table(scores, tmp_path / f"{name}.csv")
    tables = [str(tmp_path / "mine.csv"), str(tmp_path / "theirs.csv")]
    assert main(["compare", *tables, "--baseline", "theirs", "--n-bootstrap", "100"]) == 0
    assert "mine is better than theirs" in capsys.readouterr().out


def test_a_refusal_is_one_line_and_code_2(acdc, tmp_path, capsys):
    write_table(acdc[:-3], tmp_path / "t.csv")
    assert main(["compare", str(tmp_path / "t.csv")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "different cases: VMUNet lacks patient059_frame12" in printed.err


SILENT = "Training again with another seed moves it too, and no interval here knows how far"


def test_what_another_seed_would_change_is_said_to_be_unknown_only_with_one(acdc):
    seeds = [replace(s, seed=seed) for s in acdc for seed in "01"]
    once, twice = (compare(s, group=r"patient\d+", n_bootstrap=100) for s in (acdc, seeds))
    assert SILENT in as_markdown(once) and SILENT not in as_markdown(twice)
    assert "SD over seeds" in as_text(twice) and "SD over seeds" not in as_text(once)
    assert "2 seeds, over which a case's value is the mean; 100 resamples: for" in as_text(twice)


def test_a_margin_is_told_with_its_interval(acdc):
    (text,) = (as_text(compare(acdc, group=r"patient\d+", margin=0.01, n_bootstrap=500)),)
    assert "MMUNet is equivalent to its twin without SSM, MMUNetNoSSM, within 0.0100: Dice +0.0020" in text
    assert "(Holm over 1 test; margin 0.0100)" in text and "90 % CI" in text
    assert "VMUNet is worse than nnUNet: " in text
    assert max(map(len, text.splitlines())) < 220
    results = compare(acdc, group=r"patient\d+", margin=0.0025, n_bootstrap=500)
    assert "is not shown to differ from its twin without SSM, MMUNetNoSSM, nor to be equivalent" in as_text(
        results
    )
    assert "equivalent: no difference was shown" in as_markdown(results)
    plain = compare(acdc, group=r"patient\d+", n_bootstrap=500)
    assert "equivalent" not in as_markdown(plain) + as_text(plain)


def test_false_claims_are_told_in_markdown_and_json_and_not_in_the_terminal(studies):
    assert "false claim |" in as_markdown(studies) and "false claim" not in as_text(studies)
    (study,) = json.loads(as_json(studies))
    assert 0 < study["comparisons"][0]["p_false_claim"] < 0.5


def test_the_command_takes_a_margin(acdc, tmp_path, capsys):
    write_table(acdc, tmp_path / "t.csv")
    command = ["compare", str(tmp_path / "t.csv"), "--group", r"patient\d+", "--n-bootstrap", "200"]
    assert main([*command, "--margin", "0.01"]) == 0
    assert "equivalent" in capsys.readouterr().out
    assert main([*command, "--margin", "-1"]) == 2
    assert "expected a positive number, in the metric's unit" in capsys.readouterr().err
