"""A release's own dataset.json must not say something else than the specification of its data set."""

import json

import pytest
from releases import BUILDERS

from nnunet_mamba.cli import main


@pytest.mark.parametrize("name", ["msd_braintumour", "msd_braintumour_regions"])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                "labels": {
                    "0": "background",
                    "1": "enhancing tumour",
                    "2": "non-enhancing tumor",
                    "3": "edema",
                }
            },
            "the label 'enhancingtumor' as 1",
        ),
        ({"modality": {"0": "T1w", "1": "FLAIR", "2": "t1gd", "3": "T2w"}}, "the channel 'T1w' as 0"),
    ],
)
def test_other_numbers_than_known_are_refused(tmp_path, capsys, name, changes, says):
    assert convert(name, tmp_path, changes) == 2
    message = capsys.readouterr().err
    assert says in message and "as it is known" in message


def test_amos_with_exchanged_organs_is_refused(tmp_path, capsys):
    labels = {"0": "background", "1": "liver", "6": "spleen"}
    assert convert("amos22_ct", tmp_path, {"labels": labels}) == 2
    assert "the label 'liver' as 1, the label 'spleen' as 6" in capsys.readouterr().err


def test_another_spelling_and_names_that_are_not_known_are_taken(tmp_path):
    labels = {"0": "background", "1": "Edema", "2": "non enhancing tumour", "3": "enhancing tumour"}
    assert convert("msd_braintumour", tmp_path, {"labels": labels}) == 0


def convert(name, folder, changes) -> int:
    sources = BUILDERS[name](folder / "release")
    (file,) = (folder / "release").rglob("dataset.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return main(["convert", name, *map(str, sources), "--raw", str(folder / "raw")])
