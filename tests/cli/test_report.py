import shutil
from dataclasses import replace

from simulated_study import simulated_scores

from nnunet_mamba.cli import main
from nnunet_mamba.study.datasets.phantom import write_phantom_dataset
from nnunet_mamba.study.evaluation import write_table


def test_report_says_what_it_wrote_and_what_it_left_out(tmp_path, capsys):
    scores = [replace(s, seed=seed) for s in simulated_scores(n_patients=4) for seed in ("1", "2")]
    write_table(scores, tmp_path / "a.csv")
    out = tmp_path / "page"
    words = ["report", str(tmp_path / "a.csv"), "--out", str(out), "--n-bootstrap", "100"]
    assert main([*words, "--group", r"patient\d+", "--margin", "dice=0.01"]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"-> {out / 'report.html'}", f"-> {out / 'report.md'}"]
    assert "left out: Training" in output.err
    text = (out / "report.md").read_text()
    typed = r"--group 'patient\d+' --margin dice=0.01 --n-bootstrap 100"
    assert typed in text  # to be typed again
    assert "Trained with seeds 1, 2; scores are means over them" in text


def test_one_method_is_enough_for_a_page_but_not_for_a_comparison(tmp_path, capsys):
    one = [s for s in simulated_scores(n_patients=4) if s.trainer == "nnUNetTrainer"]
    write_table(one, tmp_path / "a.csv")
    out = tmp_path / "page"
    assert main(["report", str(tmp_path / "a.csv"), "--out", str(out), "--n-bootstrap", "100"]) == 0
    text = (out / "report.md").read_text()
    assert text.startswith("# nnUNetTrainer on Dataset027_ACDC")
    mean = sum(s.value for s in one if s.metric == "dice") / sum(s.metric == "dice" for s in one)
    assert "## Results" in text and f"{mean:.4f}" in text
    assert "## Differences" not in text and "better" not in text
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a.csv")]) == 2
    output = capsys.readouterr().err
    assert "one method only" in output and "`nnunet-mamba report` makes a page" in output


def test_label_maps_of_a_test_set_give_pictures(tmp_path, capsys):
    raw = write_phantom_dataset(tmp_path / "Dataset900_Phantom", n_train=1, n_test=3, seed=0)
    predictions = tmp_path / "my predictions"
    shutil.copytree(raw / "labelsTs", predictions)
    table = tmp_path / "a.csv"
    evaluate = ["evaluate", str(predictions), str(raw / "labelsTs"), "--metrics", "dice", "--out", str(table)]
    assert (
        main([*evaluate, "--origin", "dataset=Dataset900_Phantom", "trainer=nnUNetTrainer", "fold=test"]) == 0
    )
    out = tmp_path / "page"
    words = ["report", str(table), "--out", str(out), "--n-bootstrap", "100"]
    words += ["--predictions", str(predictions), "--references", str(raw / "labelsTs")]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"-> {out / 'report.png'}"
    text = (out / "report.md").read_text()
    assert "median: phantom_00" in text and "* unseen cases: 3" in text
    assert f"--predictions '{predictions}' --references" in text  # the command, to be typed again
    assert main(["report", str(table), "--out", str(out), "--predictions", str(predictions)]) == 2
    assert "--predictions goes with --references" in capsys.readouterr().err
