"""The reader of splits_final.json, for trainings, scores, checks and exports."""

import json

import pytest

from nnunet_mamba.nnunet.splits import Fold, find_splits, read_splits


def test_folds_are_read_in_order(tmp_path):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": []}]))
    assert read_splits(file) == (Fold(("a", "b"), ("c",)), Fold(("c",), ()))
    assert find_splits(None, tmp_path / "none", tmp_path) == file
    assert find_splits(None, tmp_path / "none") is None


@pytest.mark.parametrize(
    "text", ["", "{", "null", "{}", "[1]", '[{"train": []}]', '[{"train": "a", "val": "b"}]']
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(ValueError, match=r"splits_final.json is not a split of nnU-Net; expected .*Make it"):
        read_splits(tmp_path / "splits_final.json")
